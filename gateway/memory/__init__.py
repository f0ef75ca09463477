"""What the gateway holds for others, and how much of it: one account for the whole process."""
