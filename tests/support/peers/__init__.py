"""Whoever a test speaks through, all of them in one place: WebSocket peers, record peers, and their bytes.

- `wire`: requests, frames and records as bytes, legal and not, written apart from the codecs that they are tried on.
- `raw_client`: a WebSocket client on a blocking socket, for gateways in processes of their own.
- `client`: a client under trio that speaks records, or plain messages, one by one.
- `pumped`: a client and a service on sockets that never block, for a pump that the test turns by hand.
- `scripted_backend`: a records backend that is played record by record.
- `initiator`: the gateway's part, towards a backend.
- `gateway_double`: the gateway's part, towards a client.

What only one test knows of a peer (a session that vanishes, a browser, a fleet's clients) stays with that test.
"""
