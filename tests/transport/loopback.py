"""What the transport tests share: connected channels over loopback TCP, and certificates in files."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trustme

from gateway.config import CertificatePair
from gateway.transport.channel import Channel


@asynccontextmanager
async def connected_channels() -> AsyncIterator[tuple[Channel, Channel]]:
    """Two ends of one TCP connection, the accepted one first; closed at the end with whatever TLS they have put on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connected = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    ends = Channel(accepted), Channel(connected)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


def write_pair(ca: trustme.CA, folder: Path, *names: str, **options: object) -> CertificatePair:
    """A certificate for `names` and its key, in files named after the first of them; overwrites older ones."""
    issued = ca.issue_cert(*names, **options)  # type: ignore[arg-type]
    pair = CertificatePair(certificate=folder / f"{names[0]}.crt", key=folder / f"{names[0]}.key")
    pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    pair.key.write_bytes(issued.private_key_pem.bytes())
    return pair


def trusting_context(ca: trustme.CA) -> ssl.SSLContext:
    """A client that trusts `ca` only and takes nothing but a close_notify for the end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    ca.configure_trust(context)
    return context


async def shake_hands(
    server: Channel,
    client: Channel,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    *,
    name: str | None = "gateway.test",
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Both sockets after the handshake, the server's first; a failure on the client's side is the one raised."""
    shaken: dict[str, ssl.SSLSocket] = {}

    async def serve() -> None:
        shaken["server"] = await server.start_tls(server_context, server_side=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        shaken["client"] = await client.start_tls(client_context, server_side=False, server_hostname=name)
    return shaken["server"], shaken["client"]
