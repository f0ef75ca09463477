"""The browser client in Node: its unit tests, on the file that is served and on its modules, and its declarations."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.tools import REPOSITORY, need_npm
from tests.web.runtimes import node

HERE: Final = Path(__file__).parent
MODULE: Final = REPOSITORY / "gateway" / "web" / "kakitome.js"

SUITE_SECONDS: Final = 300.0
"""Generous: two cores run everything at once."""

PARTS: Final = MODULE.parent / "src" / "index.js"

NEEDED: Final = {"indexeddb.test.mjs": "fake-indexeddb/build/esm/index.js"}
"""What suites import of what `make npm` installs."""


@pytest.mark.parametrize("subject", [MODULE, PARTS], ids=["joined", "parts"])
@pytest.mark.parametrize("suite", sorted(file.name for file in HERE.glob("*.test.mjs")))
def test_the_suite_passes(suite: str, subject: Path) -> None:
    environment = os.environ | {"KAKITOME_JS": subject.as_uri()}
    if suite in NEEDED:
        environment["KAKITOME_NPM"] = need_npm(NEEDED[suite]).as_uri()
    run = subprocess.run(
        [node(), "--test", HERE / suite],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:]
    passed = re.search(r"^# pass (\d+)$", run.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 0


def test_the_declarations_name_what_the_module_exports() -> None:
    declared = re.findall(r"^export (?:class|const|function) (\w+)", MODULE.with_suffix(".d.ts").read_text(), re.M)
    for module in (MODULE, PARTS):
        script = f"import * as module from {json.dumps(module.as_uri())}; console.log(Object.keys(module).join())"
        argv = [node(), "--input-type=module", "--eval", script]
        exported = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip().split(",")
        # The parts of the protocol are for the project's own tests.
        assert set(exported) == {*declared, "default", "Session", "RecordType", "encodeRecord", "parseRecord"}


@pytest.mark.parametrize(
    ("libraries", "types", "files"),
    [
        (["ES2022"], [], ["application.ts"]),
        (["ES2022"], ["node"], ["application.ts", "platform.ts"]),
        (["ES2022", "DOM"], [], ["application.ts", "platform.ts"]),
    ],
    ids=["neither DOM nor Node", "Node without the DOM", "DOM"],
)
def test_the_declarations_compile_strictly(
    libraries: list[str], types: list[str], files: list[str], tmp_path: Path
) -> None:
    compiler = need_npm("typescript/bin/tsc")
    options = {
        "noEmit": True,
        "strict": True,
        "exactOptionalPropertyTypes": True,
        "noUncheckedIndexedAccess": True,
        "skipLibCheck": False,
        "module": "nodenext",
        "moduleResolution": "nodenext",
        "target": "ES2022",
        "lib": libraries,
        "types": types,
        "typeRoots": [str(need_npm("@types"))],
    }
    project = {"compilerOptions": options, "files": [str(HERE / "types" / file) for file in files]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(project))
    run = subprocess.run([node(), compiler, "-p", tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
