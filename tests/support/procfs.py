"""What the kernel knows about a process and its descendants: CPU time and memory."""

from pathlib import Path

PROC = Path("/proc")


def process_tree(pid: int) -> list[int]:
    """The process and all its living descendants: websockify has one for each connection, nginx a worker."""
    tree = [pid]
    for parent in tree:
        for children in PROC.glob(f"{parent}/task/*/children"):
            try:
                tree.extend(int(child) for child in children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return tree


def cpu_seconds(pid: int) -> float:
    """Time on a core of the living process tree, from schedstat: /proc/PID/stat counts only in hundredths."""
    nanoseconds = 0
    for member in process_tree(pid):
        for task in PROC.glob(f"{member}/task/*/schedstat"):
            try:
                nanoseconds += int(task.read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return nanoseconds / 1e9


def resident_bytes(pid: int) -> int:
    """Resident memory (RSS) of this one process."""
    pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    return pages * 4096


def proportional_bytes(pid: int) -> int:
    """Memory of the process tree (PSS): pages shared among its members count once, so that forking is judged fairly."""
    total = 0
    for member in process_tree(pid):
        try:
            rollup = (PROC / str(member) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def reset_peak(pid: int) -> None:
    """Makes `peak_resident_bytes` start again from what is resident now."""
    (PROC / str(pid) / "clear_refs").write_text("5")


def peak_resident_bytes(pid: int) -> int:
    """The most that was resident since the start or the last `reset_peak`."""
    status = (PROC / str(pid) / "status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
