"""How our commands end: exit statuses, and faults as lines.

Invariant: what the operator can mend ends in one line on standard error; what is a bug of ours keeps its traceback.
"""

import platform
import sys
from collections.abc import Awaitable, Callable, Iterator
from enum import IntEnum
from typing import NoReturn

import click

from gateway.errors import KakitomeError, StartupError


class ExitStatus(IntEnum):
    """What the exit status of a command tells; click itself uses 2 for a wrong command line."""

    OK = 0
    FAILED = 1
    CONFIG_FAULTY = 2
    INTERRUPTED = 130


def run_until_done(work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` under trio; faults of the operator's and of the machine's end in one line each and exit status 1."""
    import trio  # not before it is needed, so that --help answers at once

    try:
        trio.run(work)
    except KeyboardInterrupt:
        sys.exit(ExitStatus.INTERRUPTED)
    except StartupError as fault:
        fail(fault)
    except BaseExceptionGroup as group:
        # trio's nurseries wrap what goes through them. Beside a fault of ours, only interrupts may be dropped.
        faults, others = group.split(StartupError)
        if faults is None or (others is not None and others.split(KeyboardInterrupt)[1] is not None):
            raise
        fail(*_leaves(faults))


def need_linux() -> None:
    """Ends the process in one line on a system that the gateway does not run on; its clients run anywhere."""
    system = platform.system()
    if system != "Linux":
        fail(
            StartupError(f"the gateway runs on Linux only, and this is {system}: use a container or a virtual machine")
        )


def fail(*faults: KakitomeError) -> NoReturn:
    """One line for each fault on standard error, and exit status 1."""
    for fault in faults:
        click.echo(f"{click.style('kakitome:', fg='red')} {' '.join(str(fault).split())}", err=True)
    sys.exit(ExitStatus.FAILED)


def _leaves(group: BaseExceptionGroup[StartupError]) -> Iterator[StartupError]:
    for fault in group.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault
