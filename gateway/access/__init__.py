"""Who may come in: each method that tells who a client is, and what they ask outside."""
