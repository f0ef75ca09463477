"""Sockets that systemd has bound and handed over (sd_listen_fds(3)): they listen whether we run or not.

Invariant: each is given out once, and what was not asked for stays closed to nobody: systemd and other processes of the
same unit hold it as well. The environment that tells of them is for this process and not for its children.
"""

import os
import socket
from collections.abc import Iterator, MutableMapping
from typing import Final

from gateway.errors import StartupError

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START."""


class Inherited:
    """What a process was started with."""

    def __init__(self, environment: MutableMapping[str, str], *, first: int = FIRST_DESCRIPTOR) -> None:
        """Takes the variables of the protocol out of `environment`, whoever they are for."""
        pid, count, names = (environment.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES"))
        self._named: dict[str, list[int]] = {}
        if pid == str(os.getpid()) and count.isascii() and count.isdigit():
            told = names.split(":") if names else []
            for place in range(int(count)):
                name = told[place] if place < len(told) else "unknown"
                self._named.setdefault(name, []).append(first + place)

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that are still to be had."""
        return tuple(self._named)

    def take(self, name: str) -> list[socket.socket]:
        """The listening sockets of that name. Raises `StartupError`, in one line that says what to do."""
        found = self._named.pop(name, None)
        if found is None:
            there = f"it gave {', '.join(self.names)}" if self._named else "it gave none (LISTEN_FDS)"
            raise StartupError(
                f"cannot listen on systemd:{name}: systemd gave no socket of this name, {there}; start the service "
                f"by a socket unit with FileDescriptorName={name}"
            )
        return list(_listening(name, found))


def _listening(name: str, descriptors: list[int]) -> Iterator[socket.socket]:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            raise _unfit(name, descriptor, error.strerror or str(error)) from None
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.close()
            raise _unfit(name, descriptor, "it does not listen for streams; write ListenStream= and Accept=no")
        sock.setblocking(False)
        yield sock


def _unfit(name: str, descriptor: int, problem: str) -> StartupError:
    return StartupError(f"cannot listen on systemd:{name}, descriptor {descriptor}: {problem}")


_inherited: Inherited | None = None


def take(name: str) -> list[socket.socket]:
    """See `Inherited.take`; of this process."""
    global _inherited
    if _inherited is None:
        _inherited = Inherited(os.environ)
    return _inherited.take(name)
