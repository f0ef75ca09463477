"""Sans-I/O cores: bytes in, events and bytes out; no socket, no clock."""
