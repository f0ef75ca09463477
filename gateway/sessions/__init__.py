"""Conversations between a client and a backend: how they begin, are counted, and end."""
