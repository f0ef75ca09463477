"""What anybody may send, against a gateway with default limits and a small budget of memory: one file a threat.

`scene` sets the stage: a gateway, its backends, honest clients, an attacker, each a process of its own; `attacker` has
the threats, `honest` the clients that must notice nothing, `backends` what they talk to.
"""
