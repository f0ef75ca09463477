"""Decisions on requests: request in, decision out; no I/O."""
