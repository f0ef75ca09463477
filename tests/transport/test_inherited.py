"""Sockets that systemd hands over: which are ours, each once, and what is said of those that do not fit."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from gateway.errors import StartupError
from gateway.transport.inherited import Inherited


@pytest.fixture
def listening() -> Iterator[list[int]]:
    """Two listening sockets, on neighbouring descriptors as systemd has them."""
    first = socket.create_server(("127.0.0.1", 0))
    second = socket.create_server(("127.0.0.1", 0))
    base = 200
    os.dup2(first.fileno(), base)
    os.dup2(second.fileno(), base + 1)
    first.close()
    second.close()
    yield [base, base + 1]
    for descriptor in (base, base + 1):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def told(count: int, names: str = "", pid: int | None = None) -> dict[str, str]:
    return {
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDS": str(count),
        **({"LISTEN_FDNAMES": names} if names else {}),
        "HOME": "/",
    }


def test_sockets_are_given_by_name_once_and_do_not_block(listening: list[int]) -> None:
    environment = told(2, "ws:wss")
    inherited = Inherited(environment, first=listening[0])
    assert environment == {"HOME": "/"}
    (sock,) = inherited.take("ws")
    with sock:
        assert (sock.fileno(), sock.getblocking()) == (listening[0], False)
        assert not os.get_inheritable(sock.fileno())
    assert inherited.names == ("wss",)
    with pytest.raises(StartupError, match=r"gave no socket of this name, it gave wss; .*FileDescriptorName=ws$"):
        inherited.take("ws")


def test_several_of_one_name_go_together(listening: list[int]) -> None:
    taken = Inherited(told(2, "ws:ws"), first=listening[0]).take("ws")
    assert [sock.fileno() for sock in taken] == listening
    for sock in taken:
        sock.close()


def test_what_is_for_another_process_is_not_ours() -> None:
    inherited = Inherited(told(1, "ws", pid=1))
    with pytest.raises(StartupError, match=r"it gave none \(LISTEN_FDS\)"):
        inherited.take("ws")


def test_sockets_without_names_are_called_unknown_as_systemd_says(listening: list[int]) -> None:
    assert Inherited(told(1), first=listening[0]).names == ("unknown",)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_what_does_not_listen_is_named(listening: list[int], kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as silent:
        os.dup2(silent.fileno(), listening[0])
    with pytest.raises(StartupError, match=r"does not listen for streams; write ListenStream="):
        Inherited(told(1, "ws"), first=listening[0]).take("ws")


def test_a_descriptor_that_is_no_socket_is_named(listening: list[int]) -> None:
    reading, writing = os.pipe()
    os.dup2(reading, listening[0])
    os.close(reading)
    os.close(writing)
    with pytest.raises(StartupError, match=r"systemd:ws, descriptor \d+: Socket operation on non-socket"):
        Inherited(told(1, "ws"), first=listening[0]).take("ws")
