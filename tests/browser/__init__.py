"""Real browsers against the gateway, driven over WebDriver BiDi."""
