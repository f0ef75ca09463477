"""The one file that is served is what the modules make, and modules that cannot share a scope are refused."""

import re
from pathlib import Path

import pytest

from gateway.web.join import JOINED, SOURCES, Unjoinable, join, joined_sources, main

LINES = 500
"""About what a reader can keep in mind."""


def module(body: str) -> str:
    return f"/** A module. */\n\n{body}"


def test_the_file_that_is_served_is_fresh() -> None:
    assert JOINED.read_text() == joined_sources(), "make web"
    assert main(["--check"]) == 0


def test_no_module_is_longer_than_a_reader_can_bear() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in SOURCES.glob("*.js")}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_the_file_that_is_served_imports_nothing() -> None:
    assert not re.search(r"^import\b|^export .* from|\bimport\(", JOINED.read_text(), re.MULTILINE)


def test_modules_come_after_what_they_import_and_export_what_the_first_says() -> None:
    joined = join(
        {
            "index": module('export { shout } from "./voice.js";\nexport { SIGN as sign } from "./signs.js";\n'),
            "signs": module('export const SIGN = "!";\n'),
            "voice": module(
                'import {\n  SIGN,\n} from "./signs.js";\n\nexport function shout() {\n  return SIGN;\n}\n'
            ),
        }
    )
    assert joined.index('const SIGN = "!"') < joined.index("function shout()")
    assert joined.endswith("export {\n  shout,\n  SIGN as sign,\n};\n")
    assert "import" not in joined


@pytest.mark.parametrize(
    ("modules", "fault"),
    [
        (
            {
                "index": 'export { A } from "./a.js";\n',
                "a": 'import { B } from "./b.js";\nexport const A = 1;\n',
                "b": 'import { A } from "./a.js";\nexport const B = 1;\n',
            },
            "imports in a circle: a -> b -> a",
        ),
        ({"index": 'export { A } from "./a.js";\n', "a": "const A = 1;\n"}, "imports A, which a.js does not export"),
        ({"index": 'export { A } from "./a.js";\n'}, "imports a.js, which does not exist"),
        ({"index": "", "a": "export const A = 1;\n"}, "nobody imports a.js"),
        (
            {
                "index": 'export { A } from "./a.js";\nexport { B } from "./b.js";\n',
                "a": "export const A = 1;\nfunction same() {}\n",
                "b": "export const B = 1;\nconst same = 2;\n",
            },
            "same is named in a.js and in b.js",
        ),
        ({"index": 'import fs from "node:fs";\n'}, "import fs from"),
        ({"index": "export default 7;\n"}, "export default 7"),
    ],
)
def test_modules_that_cannot_be_joined_are_refused(modules: dict[str, str], fault: str) -> None:
    with pytest.raises(Unjoinable, match=re.escape(fault)):
        join({name: module(body) for name, body in modules.items()})


def test_a_module_says_what_it_is() -> None:
    with pytest.raises(Unjoinable, match="expected a comment"):
        join({"index": "export const A = 1;\n"})


def test_check_tells_a_file_that_is_not_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "kakitome.js"
    stale.write_text("// old\n")
    monkeypatch.setattr("gateway.web.join.JOINED", stale)
    assert main(["--check"]) == 1
    assert stale.read_text() == "// old\n"
    assert main([]) == 0
    assert main(["--check"]) == 0
