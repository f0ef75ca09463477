"""`python -m gateway` is `kakitome`."""

from gateway.cli import main

main(prog_name="kakitome")
