"""`python -m helm`: writes what is generated in the chart. `--check` writes nothing and names what is not current."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from helm.embedded import embedded_files
from helm.readme import readme
from helm.schema import values_schema
from helm.values import read_values

REPOSITORY: Final = Path(__file__).parents[1]
CHART: Final = REPOSITORY / "helm" / "kakitome"
EMBEDDED_FOLDERS: Final = ("dashboards", "rules")


def generated(repository: Path = REPOSITORY) -> Mapping[Path, bytes]:
    """Every generated file of the chart, by its path in it."""
    sections = read_values((CHART / "values.yaml").read_text())
    files = {Path("files") / path: content for path, content in embedded_files(repository).items()}
    return {
        Path("README.md"): readme(sections).encode(),
        Path("values.schema.json"): as_json(values_schema(sections)).encode(),
        **files,
    }


def as_json(schema: object) -> str:
    """One line for each level: a change shows as a small difference."""
    import json

    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def stale(chart: Path = CHART) -> list[Path]:
    """The files of the chart that are not as they would be generated: changed, missing, or left over."""
    wanted = generated()
    present = {
        path.relative_to(chart) for folder in EMBEDDED_FOLDERS for path in (chart / "files" / folder).glob("[!.]*")
    }
    differing = {
        path
        for path, content in wanted.items()
        if not (chart / path).is_file() or (chart / path).read_bytes() != content
    }
    return sorted(differing | (present - wanted.keys()))


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; name what is not current and exit with 1.")
def main(check: bool) -> None:
    """Write the chart's README, the schema of its values, and its copies of dashboards and rules."""
    files = generated()
    for path in stale():
        click.echo(path)
        if not check and path in files:
            (CHART / path).parent.mkdir(parents=True, exist_ok=True)
            (CHART / path).write_bytes(files[path])
        elif not check:
            (CHART / path).unlink()
    if check and stale():
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m helm")
