"""Rules of the house that no linter knows: how long a file may be, and where the tests of a module stand."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway import codes
from tests.support.tools import REPOSITORY

SOURCES: Final = {".py", ".pyx", ".js", ".mjs", ".ts"}

MANY_LINES: Final = 500

REASON: Final = re.compile(r"\blong\b|\bin one file\b")
"""Stands in the first line of a file that has more, with why it is not two."""

NOT_A_SENTENCE: Final = ("/**", "# cython:", "#!")


def tracked(*folders: str) -> Iterator[Path]:
    """What git knows in these folders, relative to the repository; without git, as in an archive, what is there."""
    listing = ["git", "ls-files", "-z", *folders]
    done = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:  # a copy of the files may stand in a folder that a checkout ignores
        yield from (Path(name) for name in done.stdout.split("\0") if name and (REPOSITORY / name).exists())
    else:
        for folder in folders:
            yield from (path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob("*") if path.is_file())


def gives_a_reason(text: str) -> bool:
    """Whether a file's first sentence says why it is long."""
    (first, *_) = [line for line in text.splitlines() if not line.startswith(NOT_A_SENTENCE)]
    return REASON.search(first) is not None


def test_a_long_file_says_why_in_its_first_line() -> None:
    sources = [path for path in tracked("gateway", "tests", "deploy", "helm") if path.suffix in SOURCES]
    assert len(sources) > 500
    texts = {path: (REPOSITORY / path).read_text() for path in sources}
    unexplained = [
        f"{path}: {len(text.splitlines())} lines"
        for path, text in texts.items()
        if len(text.splitlines()) > MANY_LINES and not gives_a_reason(text)
    ]
    assert not unexplained


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ('"""All of it, and so long."""\n', True),
        ('# cython: language_level=3\n"""In C; in one file because its parts are inlines."""\n', True),
        ('"""What belongs to all of it."""\n', False),
        ('"""All of it."""\n\nIt is long because it is.\n', False),
    ],
)
def test_a_reason_counts_where_it_is_read_first(text: str, does: bool) -> None:
    assert gives_a_reason(text) is does


# --- a test file for each module ----------------------------------------------------------------------------------

TESTED_ELSEWHERE: Final = {
    "gateway/demo/__main__.py": "a command, which tests/demo/test_backends.py runs",
    "gateway/protocol/_frames.pyx": "tests/protocol/test_frames.py tries both codecs, one beside the other",
    "gateway/protocol/_frames_py.py": "tests/protocol/test_frames.py tries both codecs, one beside the other",
    "gateway/relay/_sockets.pyx": "tests/relay/test_sockets.py tries both forms",
    "gateway/relay/_sockets_py.py": "tests/relay/test_sockets.py tries both forms",
}


def home_of_tests(module: Path) -> Path:
    return Path("tests", *module.parts[1:-1], f"test_{module.stem}.py")


def is_plain(statement: ast.stmt) -> bool:
    """A docstring, `...`, or what hands on and stores what is given: there is nothing in it that may be wrong."""
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(value=value) | ast.AnnAssign(value=value) | ast.Return(value=value):
            return isinstance(value, ast.Name | ast.Constant) or _is_attribute(value)
        case _:
            return False


def _is_attribute(value: ast.expr | None) -> bool:
    while isinstance(value, ast.Attribute):
        value = value.value
    return isinstance(value, ast.Name)


def declares_only(source: str) -> bool:
    """Whether a module has types, constants and interfaces, and nothing that does anything."""
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return all(all(map(is_plain, function.body)) for function in functions)


def test_each_module_has_a_test_file_of_its_name() -> None:
    modules = [path for path in tracked("gateway") if path.suffix in {".py", ".pyx"} and path.name != "__init__.py"]
    assert len(modules) > 200
    missing = [
        str(module)
        for module in modules
        if not (REPOSITORY / home_of_tests(module)).exists()
        and str(module) not in TESTED_ELSEWHERE
        and not (module.suffix == ".py" and declares_only((REPOSITORY / module).read_text()))
    ]
    assert not missing, "write one, or move there what tests it"


@pytest.mark.parametrize("module", TESTED_ELSEWHERE)
def test_an_exception_from_that_is_needed_and_leads_somewhere(module: str) -> None:
    assert (REPOSITORY / module).exists()
    assert not (REPOSITORY / home_of_tests(Path(module))).exists()
    (named,) = re.findall(r"tests/[a-z_/]+\.py", TESTED_ELSEWHERE[module])
    assert (REPOSITORY / named).exists()


@pytest.mark.parametrize(
    ("source", "does"),
    [
        ("LIMIT = 5\nclass A:\n    x: int = 3\n", True),
        ("class A:\n    def __init__(self, x):\n        self.x = x\n", True),
        ('class A:\n    def f(self):\n        "Tells."\n    def g(self): return self.x.y\n', True),
        ("class A:\n    def f(self): return self.x.y()\n", False),
        ("def f(x):\n    return x + 1\n", False),
        ("async def f(x):\n    await x\n", False),
        ("class A:\n    def f(self):\n        if self.x:\n            self.y = 1\n", False),
    ],
)
def test_what_only_declares_is_told_from_what_does_something(source: str, does: bool) -> None:
    assert declares_only(source) is does


# --- names --------------------------------------------------------------------------------------------------------

ROUND: Final = {"NORMAL", "MIN_CODE", "MAX_CODE"}

CODES: Final = {value for name, value in vars(codes).items() if isinstance(value, int) and name not in ROUND}
"""Those that are no round numbers, which stand for something else somewhere."""

RANGES: Final = {
    "gateway/codes.py": "where they stand",
    "gateway/protocol/messages.py": "the ranges of RFC 6455 section 7.4",
    "gateway/telemetry/metrics.py": "ranges as labels",
}


def numbers_in(source: str) -> set[int]:
    nodes = ast.walk(ast.parse(source))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is int}


def test_the_code_of_an_end_stands_as_a_number_in_one_place_only() -> None:
    sources = [path for path in tracked("gateway") if path.suffix == ".py" and str(path) not in RANGES]
    found = {str(path): CODES & numbers_in((REPOSITORY / path).read_text()) for path in sources}
    assert not {path: sorted(numbers) for path, numbers in found.items() if numbers}
    assert all((REPOSITORY / path).exists() for path in RANGES)


def test_no_two_codes_share_a_name_or_a_number() -> None:
    named = {name: value for name, value in vars(codes).items() if isinstance(value, int) and name != "MIN_CODE"}
    assert len(set(named.values())) == len(named)


MISLEADING: Final = ("gateway/transport/upgrade.py", "gateway/sessions/routes.py", "gateway/sessions/house.py")
"""Names of before: what upgraded nothing, what held no sessions, what was the server."""


def test_names_that_misled_are_gone() -> None:
    assert not [path for path in MISLEADING if (REPOSITORY / path).exists()]
    classes = {
        node.name
        for path in tracked("gateway")
        if path.suffix == ".py"
        for node in ast.walk(ast.parse((REPOSITORY / path).read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert "SessionHost" in classes
    assert "House" not in classes


def test_imports_for_types_count_where_circles_are_forbidden() -> None:
    linter = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert not linter.get("exclude_type_checking_imports", False)
    contracts = {contract["type"]: contract for contract in linter["contracts"]}
    assert contracts["acyclic_siblings"]["ancestors"] == ["gateway"]
    assert not [contract["name"] for contract in linter["contracts"] if contract.get("ignore_imports")]
