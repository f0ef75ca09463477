"""Kakitome by a name of its own: `from kakitome import client, backend` is `gateway.client` and `gateway.backend`.

The package is called `gateway`, as something of yours may be: a `gateway.py` beside a program hides it. Whoever comes
by this name is told so.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway import backend, client

__all__ = ["backend", "client"]

OURS: Final = Path(__file__).resolve().parent / "gateway" / "__init__.py"


def check() -> None:
    """Raises ImportError where Python finds another `gateway` than the one beside this module."""
    loaded = sys.modules.get("gateway")
    spec = importlib.util.find_spec("gateway") if loaded is None else loaded.__spec__
    file = spec.origin if spec is not None else getattr(loaded, "__file__", None)
    if file is not None and Path(file).resolve() == OURS:
        return
    # A folder without __init__.py has no file, but places.
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    where = file or next(iter(places), "none")
    raise ImportError(
        f"the module 'gateway' that Python finds is {where}, and not Kakitome's ({OURS.parent}): "
        "rename it, or start from another folder or without it in PYTHONPATH"
    )


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'kakitome' has no attribute {name!r}; it has {', '.join(__all__)}")
    check()
    return importlib.import_module(f"gateway.{name}")


def main() -> None:
    """The command `kakitome`."""
    try:
        check()
    except ImportError as fault:
        sys.exit(f"kakitome: {fault}")
    from gateway.cli import main as command

    command()
