"""Autobahn's WebSocket test suite against the gateway: every opening, frame, close and compression case."""
