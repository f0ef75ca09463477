"""What the suites outside one module share: real processes, certificates, tool look-up, the gateway under test."""
