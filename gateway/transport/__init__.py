"""Trio shells: accept, handshake, dial."""
