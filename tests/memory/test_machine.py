"""The budget that is chosen where the configuration says `auto`."""

from pathlib import Path

import pytest

from gateway.memory.machine import automatic_budget, budget_within, cgroup_limit, machine_memory

MIB = 2**20


def group(folder: Path, limit: str, name: str = "memory.max") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{limit}\n")


def test_the_least_limit_around_the_process_counts(tmp_path: Path) -> None:
    group(tmp_path / "pod", f"{256 * MIB}")
    group(tmp_path / "pod/container", f"{128 * MIB}")
    group(tmp_path / "pod/container/none", "max")
    own = tmp_path / "own"
    own.write_text("0::/pod/container/none\n")
    assert cgroup_limit(mount=tmp_path, own=own) == 128 * MIB


def test_a_container_sees_its_group_at_the_root(tmp_path: Path) -> None:
    group(tmp_path, f"{64 * MIB}")
    assert cgroup_limit(mount=tmp_path, own=tmp_path / "absent") == 64 * MIB


def test_version_1(tmp_path: Path) -> None:
    group(tmp_path / "memory", str(2**63 - 4096), "memory.limit_in_bytes")
    group(tmp_path / "memory/docker/a", f"{512 * MIB}", "memory.limit_in_bytes")
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/docker/a\n2:memory:/docker/a\n")
    assert cgroup_limit(mount=tmp_path, own=own) == 512 * MIB


def test_no_limit(tmp_path: Path) -> None:
    group(tmp_path, "max")
    assert cgroup_limit(mount=tmp_path, own=tmp_path / "absent") is None


@pytest.mark.parametrize(("limit", "budget"), [(1024, 576), (256, 115.2), (128, 38.4), (64, 16), (32, 16)])
def test_what_is_left_for_others(limit: int, budget: float) -> None:
    assert budget_within(limit * MIB) == int(budget * MIB)


def test_this_machine_has_a_budget() -> None:
    assert 0 < automatic_budget() < machine_memory()
