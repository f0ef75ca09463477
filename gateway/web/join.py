"""Joins the modules of `src/` into `kakitome.js`, the one file that is served: `python gateway/web/join.py [--check]`.

The modules stay modules, without a build step for whoever works on them; a page loads one file. They share one scope
there, so no two of them may give the same name at their top level, and none may import another in a circle: both are
refused. `--check` writes nothing, and exits with 1 where the file is not what the modules make.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
SOURCES: Final = HERE / "src"
JOINED: Final = HERE / "kakitome.js"
FIRST: Final = "index"
"""The module that says what is exported."""

IMPORT: Final = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
REEXPORT: Final = re.compile(r'^export \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
DECLARATION: Final = re.compile(r"^(export )?(?:const|let|class|function|async function) (\w+)", re.MULTILINE)
FOREIGN: Final = re.compile(r"^(?:import\b.*|export (?:\{|\*|default).*)", re.MULTILINE)
COMMENT: Final = re.compile(r"\A/\*\*.*?\*/\n", re.DOTALL)


class Unjoinable(ValueError):
    """The modules cannot stand in one file; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file of `src/`: what it takes from others, what it names, and its text without either."""

    name: str
    opening: str
    """Its first comment."""
    imports: Mapping[str, frozenset[str]]
    """The names that it takes, by module."""
    exported: frozenset[str]
    named: frozenset[str]
    body: str


def parse(name: str, text: str) -> Module:
    """The module. Raises Unjoinable for an import or export of another form."""
    taken: dict[str, frozenset[str]] = {}
    for names, module in [*IMPORT.findall(text), *REEXPORT.findall(text)]:
        taken[module] = taken.get(module, frozenset()) | {each.split(" as ")[0] for each in split(names)}
    body = REEXPORT.sub("", IMPORT.sub("", text))
    if foreign := FOREIGN.search(body):
        raise Unjoinable(f'{name}.js: {foreign[0]}: expected import {{...}} from "./module.js", or export of a name')
    found = DECLARATION.findall(body)
    comment = COMMENT.match(body)
    if comment is None:
        raise Unjoinable(f"{name}.js: expected a comment that says what it is, /** ... */, as its first line")
    return Module(
        name=name,
        opening=comment[0],
        imports=taken,
        exported=frozenset(each for export, each in found if export),
        named=frozenset(each for _, each in found),
        body=re.sub(r"^export (?=\w)", "", body[comment.end() :], flags=re.MULTILINE).strip() + "\n",
    )


def split(names: str) -> list[str]:
    """The names between an import's braces."""
    return [each.strip() for each in names.split(",") if each.strip()]


def in_order(modules: Mapping[str, Module], name: str, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The module after all that it imports; names may come more than once. Raises Unjoinable for a circle."""
    if name in path:
        raise Unjoinable("imports in a circle: " + " -> ".join([*path[path.index(name) :], name]))
    module = modules[name]
    for other, names in module.imports.items():
        if other not in modules:
            raise Unjoinable(f"{name}.js imports {other}.js, which does not exist")
        if missing := names - modules[other].exported:
            raise Unjoinable(f"{name}.js imports {', '.join(sorted(missing))}, which {other}.js does not export")
        yield from in_order(modules, other, (*path, name))
    yield name


def join(sources: Mapping[str, str]) -> str:
    """The one file, of the modules' texts by their names. Raises Unjoinable."""
    modules = {name: parse(name, text) for name, text in sources.items()}
    order = list(dict.fromkeys(in_order(modules, FIRST)))
    if unused := modules.keys() - set(order):
        raise Unjoinable(f"nobody imports {', '.join(f'{name}.js' for name in sorted(unused))}")
    owners: dict[str, str] = {}
    for name in order:
        for each in sorted(modules[name].named):
            if each in owners:
                raise Unjoinable(f"{each} is named in {owners[each]}.js and in {name}.js")
            owners[each] = name
    exports = [each for names, _ in REEXPORT.findall(sources[FIRST]) for each in split(names)]
    parts = [modules[FIRST].opening, "// Joined by join.py from the modules in src/: changes are made there.\n"]
    for name in order:
        module = modules[name]
        if name != FIRST:
            parts.append(f"// --- {name} {'-' * (112 - len(name))}\n\n{module.opening}\n{module.body}")
    parts.append("export {\n" + "".join(f"  {each},\n" for each in exports) + "};\n")
    return "\n".join(parts)


def joined_sources(folder: Path = SOURCES) -> str:
    """What `kakitome.js` is to be."""
    return join({path.stem: path.read_text() for path in sorted(folder.glob("*.js"))})


def main(arguments: list[str]) -> int:
    """Writes the file, or with `--check` says whether it is fresh."""
    text = joined_sources()
    if arguments == ["--check"]:
        return 0 if JOINED.read_text() == text else 1
    JOINED.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
