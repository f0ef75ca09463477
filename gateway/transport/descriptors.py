"""How many descriptors this process may have, and which of them are not for connections.

Invariant: connections, in and out, never take the last ones. What an operator needs to see why nothing else goes on
(the admin listener, probes, lookups, certificates, the log) finds descriptors also when everything else is used up.

The kernel gives each new descriptor the lowest number that is free (POSIX, open(3p)). So nobody has to count: if the
number of one that was just opened is within the last `kept_back`, all those below are in use.
"""

import errno
import resource
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import structlog

KEPT_BACK: Final = 128
"""The admin listener takes up to 64 connections; a lookup, a probe, a file each take one for a moment."""

KEPT_BACK_SHARE: Final = 8
"""Where there are few, one in so many is kept back."""

SPARE: Final = 64
SPARE_SHARE: Final = 16
"""With no more than so many left for connections, or one in so many, those that wait for nobody's data make way."""

DESCRIPTORS_A_CONNECTION: Final = 2
"""The client's and the backend's."""

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the kernel says when this process or this machine has no more to give: never the fault of a peer."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """This process's descriptors."""

    limit: int
    """How many it may have open."""

    kept_back: int = field(init=False)
    """How many of them are not for connections."""
    for_connections: int = field(init=False)
    """What is left for those of clients and backends."""
    spare: int = field(init=False)
    """How many are to be free for those who come."""

    def __post_init__(self) -> None:
        kept_back = min(KEPT_BACK, self.limit // KEPT_BACK_SHARE)
        for_connections = self.limit - kept_back
        object.__setattr__(self, "kept_back", kept_back)
        object.__setattr__(self, "for_connections", for_connections)
        object.__setattr__(self, "spare", min(SPARE, for_connections // SPARE_SHARE))

    def is_short(self, descriptor: int) -> bool:
        """Whether few are left, by one that was just opened for a connection."""
        return descriptor >= self.for_connections - self.spare

    def has_room_for(self, descriptor: int) -> bool:
        """Whether a connection may keep this descriptor, which was just opened; if not, close it."""
        return descriptor < self.for_connections


def current_budget() -> Budget:
    """As it is at this moment: `prlimit` may change a running process's."""
    return _budget(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


@lru_cache(1)
def _budget(limit: int) -> Budget:
    return Budget(limit=limit)


def use_all() -> Budget:
    """Lets this process have as many descriptors as the kernel allows it, and says in the log how many those are.

    The soft limit, often 1024, is for programs that use select(2); here it would mean some 450 relayed connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    budget = current_budget()
    _log.info(
        "descriptors",
        limit=budget.limit,
        soft_limit_was=soft,
        kept_back=budget.kept_back,
        relayed_connections=budget.for_connections // DESCRIPTORS_A_CONNECTION,
    )
    return budget


def is_shortage(error: OSError) -> bool:
    """Whether `error` says that this process or machine is short of something, and nothing about a peer."""
    return error.errno in SHORTAGES
