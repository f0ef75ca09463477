"""What one process and one machine hold: `python -m tests.capacity`."""
