"""What both ends of a session share to the letter, the Python client and the kit for backends."""
