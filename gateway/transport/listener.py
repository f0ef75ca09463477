"""Where connections come in: bound addresses, an accept loop that outlives every fault, and what precedes HTTP.

Invariant: nothing that one connection does, and no shortage of descriptors or memory, ends a listener; only `close`
does. Connections that were accepted live on after it.
"""

import errno
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from gateway.config import Address, SystemdSocket, TcpAddress, UnixAddress
from gateway.config import Listener as ListenerConfig
from gateway.config.accounts import group_id, user_id
from gateway.errors import HandshakeTimeout, StartupError
from gateway.policy.anteroom import Guest
from gateway.protocol.http import plaintext_at_tls
from gateway.protocol.proxy_protocol import ProxyAddress, ProxyHeader, ProxyHeaderInvalid, ProxyHeaderReader
from gateway.telemetry.metrics import AcceptError
from gateway.transport import inherited
from gateway.transport.channel import Channel, tcp_address, tune_tcp
from gateway.transport.descriptors import current_budget
from gateway.transport.gatehouse import Gatehouse
from gateway.transport.silent import SilentConnections
from gateway.transport.tls import ServerTls, TlsFacts, facts, proxied_facts

BACKLOG: Final = 4096
"""Connections that wait to be accepted; the kernel lowers it to net.core.somaxconn, whose default this is."""

ACCEPTS_PER_WAKEUP: Final = 8
"""Bounds how long a flood of connections keeps the pump from its turn: what each does first takes 0.3 to 0.7 ms."""

PEEKED_BYTES: Final = 6
"""The first one tells TLS from text, all of them a PROXY header from a request."""

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Without descriptors or memory the listening socket stays readable: a loop that did not pause would spin."""

_SHORTAGES: Final = {
    errno.EMFILE: AcceptError.DESCRIPTORS,
    errno.ENFILE: AcceptError.DESCRIPTORS,
    errno.ENOBUFS: AcceptError.MEMORY,
    errno.ENOMEM: AcceptError.MEMORY,
}

_ABORTED: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
        errno.ETIMEDOUT,
    }
)
"""What became of one connection before it was accepted; the next one may be well (accept(2), "Error handling")."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A connection that nothing has been read from yet."""

    listener: "Listener"
    channel: Channel
    """Closed when the handler returns, unless it released it."""
    peer: TcpAddress | None
    """The other end of this very connection; None on a Unix socket."""
    guest: Guest | None = None
    """Its place among those who are not admitted yet, where somebody counts them."""


Handler = Callable[[Accepted], Awaitable[None]]


class Listener:
    """One `listeners` entry, bound and listening from its construction on."""

    def __init__(
        self,
        config: ListenerConfig,
        *,
        on_accept_error: Callable[[AcceptError], None] = lambda _: None,
        enter: Callable[[str | None, Callable[[], None]], Guest | None] | None = None,
        rest: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Raises `StartupError`, in one line that says what to do. `on_accept_error` counts, and must not raise.

        `enter` gives a place to a connection from an address, which the function ends, or None: then it is closed. With
        it, connections leave alone the descriptors that are kept back. `rest` is awaited behind each run of accepts.
        """
        self._rest: Final = rest
        self._accepts = 0
        self._enter: Final = enter
        self.config: Final = config
        self.tls: Final = None if config.tls is None else ServerTls(config.tls)
        self.closed = False
        self.name: Final = str(config.bind)
        """As configured."""
        self._on_accept_error: Final = on_accept_error
        self._inode: tuple[int, int] | None = None
        match config.bind:
            case TcpAddress() as address:
                self._sockets = _listen_tcp(address)
            case UnixAddress(path=path):
                self._sockets = [_listen_unix(path, config)]
                self._inode = _inode(path)
            case SystemdSocket(name=name):
                self._sockets = inherited.take(name)
                for sock in self._sockets:
                    if sock.family != socket.AF_UNIX:
                        tune_tcp(sock)

    @property
    def scheme(self) -> str:
        """`ws` or `wss`."""
        return "ws" if self.tls is None else "wss"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Of every answer here; HSTS means nothing where it did not come over TLS (RFC 6797 section 7.2)."""
        hsts = None if self.config.tls is None else self.config.tls.hsts
        return () if hsts is None else (("Strict-Transport-Security", f"max-age={int(hsts)}"),)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with the port that the kernel chose for 0; several when a host name has several."""
        if isinstance(self.config.bind, UnixAddress):
            return (self.config.bind,)
        return tuple(_bound_to(sock) for sock in self._sockets)

    async def serve(self, handler: Handler, nursery: trio.Nursery) -> None:
        """Accepts until `close`, running `handler` for each connection as a task of `nursery`.

        Meanwhile certificates are watched and reloaded. An exception of a handler's is logged and ends its own
        connection only.
        """
        async with trio.open_nursery() as watching:
            if self.tls is not None:
                watching.start_soon(self.tls.watch)
            async with trio.open_nursery() as accepting:
                for sock in self._sockets:
                    accepting.start_soon(self._serve_socket, sock, handler, nursery)
            watching.cancel_scope.cancel()

    def close(self) -> None:
        """Stops listening and removes the Unix socket's file; connections and their handlers live on.

        What systemd has bound goes on listening: clients wait there for whoever takes them next.
        """
        if self.closed:
            return
        self.closed = True
        for sock in self._sockets:
            # Outside of trio's run, as after a failed start, there is nobody to notify.
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(sock)
            sock.close()
        # Not ours any more once a successor has put its own socket there.
        if isinstance(self.config.bind, UnixAddress) and _inode(self.config.bind.path) == self._inode:
            self.config.bind.path.unlink(missing_ok=True)

    async def _serve_socket(self, sock: socket.socket, handler: Handler, nursery: trio.Nursery) -> None:
        pause_seconds = 0.0
        while not self.closed:
            try:
                await trio.lowlevel.wait_readable(sock)
            except trio.ClosedResourceError:
                break
            error = None if self.closed else self._accept_waiting(sock, handler, nursery)
            if error is None:
                pause_seconds = 0.0
                if self._rest is not None:
                    accepts, self._accepts = self._accepts, 0
                    await self._rest(accepts)
                continue
            if not pause_seconds:
                _log.error("accept_failing", address=str(self.config.bind), problem=os.strerror(error))
            pause_seconds = min(max(FIRST_PAUSE_SECONDS, pause_seconds * 2), LONGEST_PAUSE_SECONDS)
            await trio.sleep(pause_seconds)

    def _accept_waiting(self, sock: socket.socket, handler: Handler, nursery: trio.Nursery) -> int | None:
        """Accepts some of those that wait; the errno for which it is better to pause before the next attempt."""
        is_tcp = sock.family != socket.AF_UNIX
        for _ in range(ACCEPTS_PER_WAKEUP):
            try:
                accepted, address = sock.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                number = error.errno or 0
                self._on_accept_error(_SHORTAGES.get(number, AcceptError.OTHER))
                if number not in _ABORTED:
                    return number
            else:
                self._accepts += 1
                peer = tcp_address(address) if is_tcp else None
                connection = self._take_in(accepted, peer)
                if connection is not None:
                    nursery.start_soon(self._handle, handler, connection)
        return None

    def _take_in(self, sock: socket.socket, peer: TcpAddress | None) -> Accepted | None:
        """The connection, if there is a place for it; if not it is closed, before a task was begun for it."""
        channel = Channel(sock)
        if self._enter is None:
            return Accepted(listener=self, channel=channel, peer=peer)
        # Whose it is, a proxy's header tells only later.
        address = None if peer is None or self.config.proxy_protocol else peer.host
        guest = self._enter(address, channel.close)
        if guest is not None and not current_budget().has_room_for(sock.fileno()):
            self._on_accept_error(AcceptError.DESCRIPTORS)
            guest.leave()
            guest = None
        if guest is None:
            channel.close()
            return None
        return Accepted(listener=self, channel=channel, peer=peer, guest=guest)

    async def _handle(self, handler: Handler, accepted: Accepted) -> None:
        try:
            await handler(accepted)
        except Exception:  # noqa: BLE001 - the boundary that keeps the listener alive
            _log.exception("connection_failed", address=str(self.config.bind))
        finally:
            if accepted.guest is not None:
                accepted.guest.leave()
            accepted.channel.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """A connection that is ready for HTTP."""

    channel: Channel
    """Plaintext from here on; the handshake is over."""
    peer: TcpAddress | None
    """Who connected, as a PROXY header says where there is one; None: somebody on a Unix socket."""
    local: Address
    """What was connected to, as a PROXY header says where there is one."""
    tls: TlsFacts | None
    """Of our own handshake, or else of the proxy's; None: the client spoke plain `ws` or `http`."""
    listener: str
    """The `bind` of the listener that accepted it."""
    headers: tuple[tuple[str, str], ...] = ()
    """Of every answer here."""


async def establish(
    accepted: Accepted,
    *,
    timeout_seconds: float,
    silent: SilentConnections | None = None,
    gatehouse: Gatehouse | None = None,
    trusts: Callable[[TcpAddress | None], bool] = lambda _: True,
) -> Established:
    """Reads the PROXY header and shakes hands, as the listener is configured, within `timeout_seconds` for both.

    Raises `HandshakeTimeout`, `ProxyHeaderInvalid`, `TlsFailure` or `OSError`, the last also where nothing had come
    when `silent` was ended: all of them the client's affair, and no reason to answer. Raises `HandshakeRefused`, to be
    answered in plain text, for a plain request to a port that speaks TLS. The channel stays with whoever closes
    `accepted.channel`. `trusts` says whose PROXY header is believed. A TLS handshake waits for its turn at the
    `gatehouse`.
    """
    channel, listener = accepted.channel, accepted.listener
    awaited = "PROXY protocol header"
    header = ProxyHeader(client=None, server=None)
    if listener.config.proxy_protocol and not trusts(accepted.peer):
        raise ProxyHeaderInvalid("it is none of trusted_proxies, so its PROXY header is not believed")
    if not listener.config.proxy_protocol and listener.tls is None:
        return _established(accepted, header)  # nothing precedes HTTP
    try:
        with trio.fail_after(timeout_seconds if gatehouse is None else gatehouse.patience(timeout_seconds)):
            if silent is not None:
                await _first_byte(channel, silent)
                if accepted.guest is not None:
                    accepted.guest.speaks()
            if listener.config.proxy_protocol:
                header = await _read_proxy_header(channel)
            if listener.tls is not None:
                awaited = "TLS handshake"
                refusal = plaintext_at_tls(await channel.peek(PEEKED_BYTES))
                if refusal is not None:
                    raise refusal
                if gatehouse is None:
                    await channel.start_tls(listener.tls.context, server_side=True)
                else:
                    await gatehouse.turn(accepted.guest)
                    await channel.start_tls(listener.tls.context, server_side=True, on_work=gatehouse.spend)
    except trio.TooSlowError:
        raise HandshakeTimeout(f"the {awaited} was not complete within {timeout_seconds:g} s") from None
    return _established(accepted, header)


def _established(accepted: Accepted, header: ProxyHeader) -> Established:
    sock, listener = accepted.channel.sock, accepted.listener
    return Established(
        channel=accepted.channel,
        peer=accepted.peer if header.client is None else _told(header.client),
        local=_local_address(sock, listener) if header.server is None else _told(header.server),
        tls=facts(sock) if isinstance(sock, ssl.SSLSocket) else proxied_facts(header),
        listener=listener.name,
        headers=listener.headers,
    )


async def _first_byte(channel: Channel, silent: SilentConnections) -> None:
    with silent.waiting(first=True):
        await channel.wait_readable()
        return
    raise ConnectionAbortedError(errno.ECONNABORTED, "the client had sent nothing when the gateway was drained")


async def _read_proxy_header(channel: Channel) -> ProxyHeader:
    reader = ProxyHeaderReader()
    while True:
        data = await channel.receive_some(reader.wanted_bytes)
        if not data:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the proxy hung up before its header was complete")
        header = reader.feed(data)
        if header is not None:
            return header


def _told(address: ProxyAddress) -> TcpAddress:
    return tcp_address((address.host, address.port))


def _local_address(sock: socket.socket, listener: Listener) -> Address:
    bind = listener.config.bind
    match bind:
        case UnixAddress():
            return bind
        case TcpAddress():
            return tcp_address(sock.getsockname())
        case SystemdSocket():
            return _bound_to(sock)


def _bound_to(sock: socket.socket) -> Address:
    """One that systemd has bound may be either."""
    name = sock.getsockname()
    return UnixAddress(path=Path(os.fsdecode(name))) if sock.family == socket.AF_UNIX else tcp_address(name)


# --- binding ------------------------------------------------------------------------------------------------------


def _listen_tcp(address: TcpAddress) -> list[socket.socket]:
    """One listening socket for each address that the host has; an absent IPv6 is no fault beside an IPv4.

    IPv6 is absent on an interface without an address of it (`EADDRNOTAVAIL`), and in a kernel without it altogether,
    where /etc/hosts names `::1` all the same (`EAFNOSUPPORT`).
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    port = address.port
    try:
        for family, sockaddr in _resolve(address):
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                absent = error
                continue
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tune_tcp(sock)  # accepted sockets inherit it
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, sockaddr[0] != "::")
            try:
                sock.bind((sockaddr[0], port, *sockaddr[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                absent = error
                sockets.pop().close()
                continue
            sock.listen(BACKLOG)
            port = sock.getsockname()[1]
        if absent is not None and not sockets:
            raise absent
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise _cannot_listen(address, error) from None
    return sockets


def _resolve(address: TcpAddress) -> Iterable[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in infos)


def _listen_unix(path: Path, config: ListenerConfig) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        sock.setblocking(False)
        try:
            sock.bind(bytes(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            path.unlink()
            sock.bind(bytes(path))
        bound = True
        # Before it listens: nobody connects under permissions that are not yet those wanted.
        _give_away(path, config)
        sock.listen(BACKLOG)
    except (OSError, StartupError) as error:
        sock.close()
        if bound:
            path.unlink(missing_ok=True)
        raise (error if isinstance(error, StartupError) else _cannot_listen(UnixAddress(path=path), error)) from None
    return sock


def _give_away(path: Path, config: ListenerConfig) -> None:
    """Sets the owner, group and permissions of a socket's file. Raises StartupError."""
    for name, text, look_up in (("owner", config.owner, user_id), ("group", config.group, group_id)):
        if text is None:
            continue
        try:
            number = look_up(text)
            os.chown(path, number if name == "owner" else -1, number if name == "group" else -1)
        except ValueError as error:
            raise StartupError(f"cannot listen on unix:{path}: {error}") from None
        except OSError as error:
            who = "only root may" if name == "owner" else "this process must be in that group, or be root"
            raise StartupError(
                f"cannot listen on unix:{path}: cannot give it to the {name} {text}: {error.strerror}; {who}"
            ) from None
    if config.mode is not None:
        path.chmod(config.mode)


def _is_stale(path: Path) -> bool:
    """A socket file is left behind by a process that was killed; only a refused connection proves that it was."""
    if not stat.S_ISSOCK(path.stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(bytes(path)) == errno.ECONNREFUSED


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _cannot_listen(address: Address, error: OSError) -> StartupError:
    match address, error.errno:
        case _, _ if isinstance(error, socket.gaierror):
            hint = "the host name does not resolve; write an address, such as 0.0.0.0 for every IPv4 one"
        case TcpAddress(), errno.EADDRINUSE:
            hint = "the port is in use (`ss -ltnp` shows by whom; [::] takes IPv4 too); stop it or bind another"
        case TcpAddress(), errno.EACCES:
            hint = "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, 8080 and 8443 do not"
        case TcpAddress(), errno.EADDRNOTAVAIL:
            hint = "no interface of this machine has this address; 0.0.0.0 is every IPv4 one, [::] every one"
        case TcpAddress(host=host), errno.EAFNOSUPPORT if ":" in host:
            hint = "this machine's kernel has no IPv6; bind an IPv4 address, such as 0.0.0.0 for every one"
        case UnixAddress(path=path), errno.EADDRINUSE if path.is_socket():
            hint = "another process listens there; stop it or bind another path"
        case UnixAddress(), errno.EADDRINUSE:
            hint = "there is a file that is no socket; remove it or bind another path"
        case UnixAddress(path=path), errno.ENOENT | errno.ENOTDIR:
            hint = f"there is no folder {path.parent}; create it or bind another path"
        case UnixAddress(path=path), errno.EACCES:
            hint = f"permission denied; this user must be allowed to create files in {path.parent}"
        case _:
            hint = f"{error.strerror or error}; bind another address"
    return StartupError(f"cannot listen on {address}: {hint}")
