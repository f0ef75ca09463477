"""The embedded demonstration: its backends and its page."""
