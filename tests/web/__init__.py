"""The browser client: its own tests, run by Node, and conversations of Node's through a real gateway."""
