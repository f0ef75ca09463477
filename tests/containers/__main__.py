"""`tests/containers/run`: proves the image and docker-compose.yml on a real engine, and prints what it measured."""

import json
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.containers.composition import prove_composition
from tests.containers.engine import EngineFailed, docker
from tests.containers.image import prove_image
from tests.containers.unit import prove_unit


@click.command(context_settings={"show_default": True})
@click.option("--base", default="python:3.13-slim", help="The base image, which must be there or to be had.")
@click.option("--tag", default="kakitome:test", help="What the image is called; it is left behind.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["image", "composition", "unit"]),
    default=["image", "composition", "unit"],
    help="What to prove; may be repeated. The others need the image that the first one leaves behind.",
)
def main(base: str, tag: str, parts: tuple[str, ...]) -> None:
    """Prove the image, docker-compose.yml and the systemd unit; exit status 1 when anything is wrong."""
    click.echo(f"engine {docker('version', '--format', '{{.Server.Version}}')}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        proofs = {
            "image": lambda: prove_image(tag, base, folder),
            "composition": lambda: prove_composition(tag, base),
            "unit": lambda: prove_unit(tag, folder),
        }
        for part in parts:
            started = time.monotonic()
            try:
                numbers = proofs[part]()
            except EngineFailed as failure:
                click.echo(str(failure), err=True)
                sys.exit(1)
            click.echo(f"{part}: proved in {time.monotonic() - started:.0f} s {json.dumps(numbers)}")


if __name__ == "__main__":
    main(prog_name="tests/containers/run")
