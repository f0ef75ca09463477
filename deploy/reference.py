"""The reference parts of the pages on the clients and the kit: `python -m deploy.reference` writes them.

They are made from what their readers' tools show as well: docstrings, and the declarations of kakitome.js. A page is
written by hand down to its heading *Reference*, and made below it. The sources are read and not imported, so that every
Python shows the same.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
DOCS: Final = REPOSITORY / "docs"
HEADING: Final = "\n## Reference\n"

PACKAGES: Final = {"python-client.md": "client", "python-backend.md": "backend"}
DECLARATIONS: Final = REPOSITORY / "gateway" / "web" / "kakitome.d.ts"

INTERNAL: Final = {
    "Receipt.climb", "Receipt.settle", "Receipt.fail", "Session.abandon", "Session.finish_current", "Connection.start",
    "Connection.drop", "Connection.wait_fenced", "Transaction.staged", "Rejected.again", "TooBig.again", "Lost.again",
}  # fmt: skip
"""Public to their package only."""

CONSTRUCTED: Final = {"MemoryStore", "SqliteStore"}
"""Classes that applications make, and that say in `__init__` of what."""

_CONTENTS: Final = re.compile(r"^    ([A-Z][a-z ]+?)(?: {2,})((?:\w+ ?)+(?:\n {8,}(?:\w+ ?)+)*)$", re.MULTILINE)
_SPECIAL: Final = {"__aiter__", "__anext__"}

# --- Python ---------------------------------------------------------------------------------------------------------


def contents(package: str) -> dict[str, list[str]]:
    """What the package's docstring lists: headings, and the names below each."""
    docstring = ast.get_docstring(_tree(f"gateway.{package}"), clean=False) or ""
    return {heading: names.split() for heading, names in _CONTENTS.findall(docstring)}


def python_reference(package: str) -> str:
    """A section for each group of names of `gateway.PACKAGE`."""
    parts = [f"Made by `python -m deploy.reference` from what `help(gateway.{package})` shows.\n"]
    for heading, names in contents(package).items():
        parts.append(f"\n### {heading}\n")
        parts += [f"\n{_described(name, *_find(f'gateway.{package}', name))}" for name in names]
    return "".join(parts)


def _tree(module: str) -> ast.Module:
    path = REPOSITORY / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def _find(module: str, name: str) -> tuple[str, ast.Module, int]:
    """Where `name` is defined: its module, that one's tree, and its place there."""
    tree = _tree(module)
    for place, node in enumerate(tree.body):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            assert node.module is not None
            return _find(node.module, name)
        if getattr(node, "name", None) == name or (isinstance(node, ast.AnnAssign) and _target(node) == name):
            return module, tree, place
    raise LookupError(f"{module} has no {name}")


def _target(node: ast.AnnAssign) -> str:
    return ast.unparse(node.target).removeprefix("self.")


def _described(name: str, module: str, tree: ast.Module, place: int) -> str:
    node = tree.body[place]
    if isinstance(node, ast.ClassDef):
        return "".join(_class(node, module))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"#### `{_signature(node)}`\n\n{_text(node)}\n"
    assert isinstance(node, ast.AnnAssign)
    assert node.value is not None
    told = _string(tree.body, place + 1)
    return f"#### `{name} = {ast.unparse(node.value)}`\n" + (f"\n{told}\n" if told else "")


def _class(node: ast.ClassDef, module: str) -> Iterator[str]:
    shown = [ast.unparse(base) for base in node.bases if not ast.unparse(base).startswith(("_", "Protocol"))]
    if node.name in CONSTRUCTED:
        (made,) = (member for member in node.body if isinstance(member, ast.FunctionDef) and member.name == "__init__")
        shown = [_arguments(made)]
    yield f"#### `class {node.name}{'(' + ', '.join(shown) + ')' if shown else ''}`\n\n{_text(node)}\n"
    members = list(_members(node, module))
    if any("Enum" in base for base in shown):
        names = [ast.unparse(member.targets[0]) for member in node.body if isinstance(member, ast.Assign)]
        yield "\n" + ", ".join(f"`{name}`" for name in names) + "\n"
    if members:
        yield "\n" + "".join(members)


def _members(node: ast.ClassDef, module: str) -> Iterator[str]:
    """An item for each attribute and method, those of private base classes included."""
    for place, member in enumerate(node.body):
        if isinstance(member, ast.AnnAssign) and not _target(member).startswith("_"):
            yield from _attribute(node, member, _string(node.body, place + 1), value=member.value)
        elif isinstance(member, ast.Assign) and _string(node.body, place + 1):
            yield f"- `{ast.unparse(member.targets[0])}`: {_string(node.body, place + 1)}\n"
        elif isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            if member.name == "__init__":
                yield from _attributes_of_init(node, member)
            elif f"{node.name}.{member.name}" not in INTERNAL and (member.name in _SPECIAL or member.name[0] != "_"):
                yield from _method(member)
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id.startswith("_"):
            _, tree, place = _find(module, base.id)
            private = tree.body[place]
            assert isinstance(private, ast.ClassDef)
            yield from _members(private, module)


def _attributes_of_init(owner: ast.ClassDef, method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    types = {argument.arg: argument.annotation for argument in [*method.args.args, *method.args.kwonlyargs]}
    for place, line in enumerate(method.body):
        told = _string(method.body, place + 1)
        if isinstance(line, ast.AnnAssign) and told and not _target(line).startswith("_"):
            yield from _attribute(owner, line, told, value=None)
        elif isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Attribute):
            name, value = line.targets[0].attr, line.value
            kind = types.get(value.id) if isinstance(value, ast.Name) else None
            if name.startswith("_") or not (told or kind):
                continue
            shown = f"{name}: {ast.unparse(kind)}" if kind else name
            yield f"- `{shown}`" + (f": {told}\n" if told else "\n")


def _attribute(owner: ast.ClassDef, node: ast.AnnAssign, told: str, *, value: ast.expr | None) -> Iterator[str]:
    is_slot = "ClassVar" in ast.unparse(node.annotation)
    if f"{owner.name}.{_target(node)}" not in INTERNAL and not is_slot:
        default = f" = {ast.unparse(value)}" if value is not None else ""
        yield f"- `{_target(node)}: {ast.unparse(node.annotation)}{default}`" + (f": {told}\n" if told else "\n")


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    told = _indented(_text(node))
    if "property" in decorators:
        assert node.returns is not None
        yield f"- `{node.name}: {ast.unparse(node.returns)}`: {told}\n"
    elif told:
        yield f"- `{_signature(node)}`: {told}\n"


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    arguments = _arguments(node)
    returns = ast.unparse(node.returns).replace("'", "") if node.returns else "None"
    waits = isinstance(node, ast.AsyncFunctionDef)
    keyword = "async "
    if any("contextmanager" in ast.unparse(decorator) for decorator in node.decorator_list):
        returns = re.sub(r"^AsyncIterator\[(.*)\]$", r"\1", returns)
        keyword = "async with "
    elif returns.startswith("AsyncIterator["):
        keyword = "async for "
    return f"{keyword if waits else ''}{node.name}({arguments})" + (f" -> {returns}" if returns != "None" else "")


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """As this repository is formatted: double quotes, spaces around a default; codes as numbers."""
    text = re.sub(r"^self(, )?", "", ast.unparse(node.args)).replace("'", '"')
    text = re.sub(r"(?<==)[A-Z_]+\b", lambda found: _codes().get(found[0], found[0]), text)
    return re.sub(r"(?<=[\w\])])=(?=[\w\"(\[])", " = ", text)


@cache
def _codes() -> dict[str, str]:
    """The codes of ends by name."""
    tree = ast.parse((REPOSITORY / "gateway" / "codes.py").read_text())
    return {
        _target(node): str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant)
    }


def _text(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _string(body: list[ast.stmt], place: int) -> str:
    """The docstring of an attribute: the string behind it."""
    node = body[place] if place < len(body) else None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return _indented(inspect.cleandoc(node.value.value))
    return ""


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ").replace("\n  \n", "\n\n")


# --- kakitome.js ----------------------------------------------------------------------------------------------------


def declarations() -> Iterator[tuple[str, str, str]]:
    """Each thing that kakitome.d.ts exports: its name, the comment before it, and its declaration."""
    text = DECLARATIONS.read_text()
    pattern = (
        r"(?:^/\*\*((?:(?!\*/).)*)\*/\n)?"
        r"^export ((?:type (\w+)[^;]*;)|(?:(?:interface|class) (\w+)[^\n]*(?:\{\}|\{\n.*?^\})))$"
    )
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        comment, declaration, *names = match.groups()
        words = re.sub(r"^ ?\* ?", "", inspect.cleandoc(comment or ""), flags=re.MULTILINE).strip()
        yield next(filter(None, names)), words, declaration


def browser_reference() -> str:
    """A section for each thing that the module exports or its declarations name."""
    parts = ["Made by `python -m deploy.reference` from `gateway/web/kakitome.d.ts`.\n"]
    for name, words, declaration in declarations():
        parts.append(f"\n### {name}\n\n" + (f"{words}\n\n" if words else "") + f"```ts\n{declaration}\n```\n")
    return "".join(parts)


# --- pages ----------------------------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """Each page as it should be."""
    made = {DOCS / page: python_reference(package) for page, package in PACKAGES.items()}
    made[DOCS / "browser-client.md"] = browser_reference()
    return {path: path.read_text().partition(HEADING)[0] + f"{HEADING}\n{text}" for path, text in made.items()}


if __name__ == "__main__":
    for path, text in pages().items():
        if path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"{path.relative_to(REPOSITORY)}\n")
