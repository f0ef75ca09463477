"""Connected sockets for tests of the data path: plain TCP, Unix and TLS, one end ours and non-blocking."""

import functools
import socket
import ssl
import threading

import trustme


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """(ours, theirs): ours has connected, as to a backend; theirs blocks for at most 10 seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.settimeout(10)
    return ours, theirs


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """The same over a Unix socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(10)
    return ours, theirs


@functools.cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def tls_pair() -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """The same over TLS: ours is the server's side, its handshake done."""
    ours, theirs = tcp_pair()
    server, client = _contexts()
    ours.setblocking(True)
    secured: list[ssl.SSLSocket] = []
    shake = threading.Thread(target=lambda: secured.append(server.wrap_socket(ours, server_side=True)))
    shake.start()
    peer = client.wrap_socket(theirs, server_hostname="localhost")
    shake.join()
    secured[0].setblocking(False)
    return secured[0], peer
