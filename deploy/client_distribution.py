"""`kakitome-client`: the Python client and the kit for backends as a distribution of their own, of these same sources.

`python -m deploy.client_distribution FOLDER` builds the wheel and tells its size. It holds what `gateway.client` and
`gateway.backend` import, and nothing that they do not: their commands, the gateway and what it needs stay out.
"""

import ast
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
NAME: Final = "kakitome-client"
ROOTS: Final = ("gateway.client", "gateway.backend")
COMMANDS: Final = frozenset({"gateway.client.console", "gateway.client.terminal", "gateway.backend.echo"})
"""Programs of the gateway's distribution that live beside what is imported."""
COMPILED: Final = frozenset({"gateway.protocol._frames"})
"""Has a twin in Python, which is taken where it is missing."""

README: Final = """\
# kakitome-client

The Python client of [Kakitome](https://forge.invalid/kakitome/kakitome), a WebSocket gateway that knows how far every
message got, and its kit for backends that speak records: `gateway.client` and `gateway.backend`, also as
`from kakitome import client, backend`. Pure Python, for trio and asyncio. Not to be installed beside `kakitome`, which
holds both.
"""


def modules() -> dict[str, Path]:
    """What the client and the kit are made of, by name."""
    found: dict[str, Path] = {}
    waiting = [name for root in ROOTS for name in _package(root)]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in COMMANDS | COMPILED:
            found[name] = _file(name)
            waiting += [imported for imported in imports(_file(name)) if imported.startswith("gateway")]
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return dict(sorted(found.items()))


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (inner for alias in node.names if _file(inner := f"{node.module}.{alias.name}").exists())


def requirements() -> list[str]:
    """What of the gateway's dependencies these modules import, as pyproject.toml has it."""
    outside = {name.partition(".")[0] for file in modules().values() for name in imports(file)}
    outside -= {"gateway", *sys.stdlib_module_names}
    stated = {_project_name(line): line for line in _project()["dependencies"]}
    missing = outside - stated.keys()
    if missing:
        raise LookupError(f"imported, and no dependency in pyproject.toml: {', '.join(sorted(missing))}")
    return [stated[name] for name in sorted(outside)]


def build(folder: Path) -> Path:
    """The wheel, made in `folder`. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place)
        for file in [*modules().values(), REPOSITORY / "gateway" / "py.typed", REPOSITORY / "kakitome.py"]:
            copy = tree / file.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        shutil.copy(REPOSITORY / "LICENSE", tree)
        (tree / "README.md").write_text(README)
        (tree / "pyproject.toml").write_text(_pyproject())
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--wheel-dir", folder, tree], check=True)
    (wheel,) = folder.glob(f"{NAME.replace('-', '_')}-{_project()['version']}-py3-none-any.whl")
    return wheel


def _package(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}.{file.stem}" for file in _file(name).parent.glob("*.py") if file.stem != "__init__")


def _file(name: str) -> Path:
    path = REPOSITORY / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return project


def _project_name(requirement: str) -> str:
    return requirement.partition(">")[0].partition("=")[0].strip().replace("-", "_")


def _pyproject() -> str:
    project = _project()
    kept = {key: project[key] for key in ("version", "requires-python", "license", "license-files", "classifiers")}
    lines = [f"{key} = {_toml(value)}" for key, value in kept.items()]
    urls = [f"{key} = {_toml(value)}" for key, value in project["urls"].items()]
    packages = sorted({name for name, file in modules().items() if file.name == "__init__.py"})
    return "\n".join(
        [
            "[build-system]",
            'requires = ["setuptools>=77"]',
            'build-backend = "setuptools.build_meta"',
            "[project]",
            f'name = "{NAME}"',
            'description = "Client and backend kit of Kakitome, a WebSocket gateway that knows how far messages got"',
            'readme = "README.md"',
            f"dependencies = {_toml(requirements())}",
            *lines,
            "[project.urls]",
            *urls,
            "[tool.setuptools]",
            f"packages = {_toml(packages)}",
            'py-modules = ["kakitome"]',
            "[tool.setuptools.package-data]",
            'gateway = ["py.typed"]',
            "",
        ]
    )


def _toml(value: str | list[str]) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(_toml(item) for item in value)}]"


if __name__ == "__main__":
    made = build(Path(sys.argv[1]).resolve())
    sources = sum(file.stat().st_size for file in modules().values())
    sys.stdout.write(
        f"{made}: {made.stat().st_size // 1000} kB, {len(modules())} modules of {sources // 1000} kB; "
        f"needs {', '.join(requirements())}\n"
    )
