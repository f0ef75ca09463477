"""What make says before it does anything."""

import os
import subprocess
from pathlib import Path

from tests.support.tools import REPOSITORY, need


def make(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    program = need("make", "apt-get install make")
    return subprocess.run(
        [program, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_another_system_than_linux_is_told_in_one_line(tmp_path: Path) -> None:
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    done = make("demo", environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "Kakitome runs on Linux only, and this is Darwin" in line


def test_every_target_that_is_offered_is_one() -> None:
    offered = [line.split()[1] for line in make("help").stdout.splitlines()]
    assert {"demo", "test", "test-all", "test-platforms"} <= set(offered)
    for target in offered:
        assert make("--dry-run", target).returncode == 0, target


def test_the_run_on_all_platforms_names_no_mirror_of_its_own() -> None:
    run = (REPOSITORY / "tests" / "platforms" / "run").read_text()
    assert "://" not in run, "whose mirror it is, apt's configuration or DEBIAN_MIRROR says"
