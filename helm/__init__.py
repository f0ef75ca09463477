"""What makes the generated parts of the Helm chart: `python -m helm`, or `make chart`."""
