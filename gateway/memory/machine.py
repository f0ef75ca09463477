"""How much memory this process may have, as the control group or else the machine says.

Invariant: what cannot be read is no limit; there is always an answer.
"""

import os
from pathlib import Path
from typing import Final

FOOTPRINT_BYTES: Final = 64 * 2**20
"""What the process takes when it holds nothing for anybody: interpreter, libraries, routes, certificates."""

LEAST_BUDGET_BYTES: Final = 16 * 2**20

_MOUNT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")


def automatic_budget() -> int:
    """The budget for `memory: auto`: of what the control group (or half of what the machine) has, three fifths.

    The rest is for the interpreter itself, for what the allocator cannot use between what is held, and for the kernel's
    own buffers, which count in a control group too.
    """
    limit = cgroup_limit()
    return budget_within(machine_memory() // 2 if limit is None else limit)


def budget_within(limit_bytes: int) -> int:
    """The part of a limit that may be used for what is held for others."""
    return max((limit_bytes - FOOTPRINT_BYTES) * 3 // 5, limit_bytes // 4, LEAST_BUDGET_BYTES)


def machine_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cgroup_limit(*, mount: Path = _MOUNT, own: Path = _OWN) -> int | None:
    """The least limit in bytes of the control groups that this process is in (version 2 or 1); None: there is none."""
    limits = [limit for folder in _folders(mount, own) if (limit := _limit_in(folder)) is not None]
    return min(limits, default=None)


def _folders(mount: Path, own: Path) -> list[Path]:
    """This process's group and those around it; within a container only the root may be visible."""
    folders = [mount, mount / "memory"]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = mount / "memory" if controllers else mount
        for name in Path(path).parts[1:]:
            folder = folder / name
            folders.append(folder)
    return folders


def _limit_in(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < machine_memory():  # version 1 says "no limit" as a very large number
            return int(text)
    return None
