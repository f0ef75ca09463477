"""The loss trial: any WebSocket gateway between seeded faults, and what became of every numbered message."""
