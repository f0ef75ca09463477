"""What the operator sees: metrics, logs, and what the kernel says of a socket."""
