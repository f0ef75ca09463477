"""Endpoints to dial: that answer, that refuse, that keep silent; and a connector to them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.config import Backend, Endpoint, TcpAddress
from gateway.transport.channel import Channel
from gateway.transport.connector import Connector
from gateway.transport.resolving import LookUp, Resolver


@contextmanager
def listening(host: str = "127.0.0.1", *, backlog: int = 100) -> Iterator[tuple[socket.socket, Endpoint]]:
    """A listening TCP socket and its endpoint; the kernel takes connections though nobody accepts them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as sock:
        sock.setblocking(False)
        yield sock, tcp_endpoint(sock)


def tcp_endpoint(sock: socket.socket, *, host: str | None = None, tls: bool = False) -> Endpoint:
    bound_host, port = sock.getsockname()[:2]
    return Endpoint(scheme="tls" if tls else "tcp", address=TcpAddress(host=host or bound_host, port=port))


@contextmanager
def refusing() -> Iterator[Endpoint]:
    """An endpoint at which nothing listens, on a port that nobody else gets meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield tcp_endpoint(sock)


@contextmanager
def silent() -> Iterator[Endpoint]:
    """An endpoint that does not answer: its backlog is full, so the kernel drops what else arrives."""
    with socket.socket() as sock, socket.socket() as first, socket.socket() as second:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        first.connect(sock.getsockname())
        second.setblocking(False)
        second.connect_ex(sock.getsockname())
        yield tcp_endpoint(sock)


def connector(*endpoints: Endpoint, look_up: LookUp | None = None, **options: object) -> Connector:
    """Without health checks, and `look_up` in place of the system's resolver."""
    defaults: dict[str, object] = {"balance": "round_robin", "health": None}
    backend = Backend.model_validate({"endpoints": endpoints, **defaults, **options})
    return Connector(backend, route="chat", resolver=Resolver(look_up))


def accept(sock: socket.socket) -> Channel:
    return Channel(sock.accept()[0])
