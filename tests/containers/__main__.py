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


@click.command(context_settings={"show_default": True})
@click.option("--base", default="python:3.13-slim", help="The base image, which must be there or to be had.")
@click.option("--tag", default="kakitome:test", help="What the image is called; it is left behind.")
@click.option("--image-only", is_flag=True, help="Leave docker-compose.yml out.")
def main(base: str, tag: str, image_only: bool) -> None:
    """Build the image, run it locked down, then bring docker-compose.yml up; exit status 1 when anything is wrong."""
    try:
        click.echo(f"engine {docker('version', '--format', '{{.Server.Version}}')}")
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            _tell("image", started, prove_image(tag, base, Path(folder)))
        if not image_only:
            started = time.monotonic()
            _tell("composition", started, prove_composition(tag, base))
    except EngineFailed as failure:
        click.echo(str(failure), err=True)
        sys.exit(1)


def _tell(what: str, started: float, numbers: dict[str, object]) -> None:
    click.echo(f"{what}: proved in {time.monotonic() - started:.0f} s {json.dumps(numbers)}")


if __name__ == "__main__":
    main(prog_name="tests/containers/run")
