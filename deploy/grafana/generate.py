"""Writes the dashboards' JSON files: `python -m deploy.grafana.generate`. A test keeps them current."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.grafana.delivery import DELIVERY
from deploy.grafana.overview import OVERVIEW

FOLDER: Final = Path(__file__).parent / "dashboards"


def dashboards() -> Mapping[Path, str]:
    """The text of every file, by its path."""
    return {
        FOLDER / f"{dashboard.uid}.json": json.dumps(dashboard.render(), indent=2, ensure_ascii=False) + "\n"
        for dashboard in (OVERVIEW, DELIVERY)
    }


def main() -> None:
    """Writes them."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in dashboards().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
