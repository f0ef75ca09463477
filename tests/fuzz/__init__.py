"""Fuzzing of the sans-I/O cores: random and mutated inputs in the suite, coverage-guided ones by `make fuzz`."""
