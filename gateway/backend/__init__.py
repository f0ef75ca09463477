"""The Python kit for TCP services that speak records."""
