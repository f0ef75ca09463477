"""Connector: what is said to a backend before its bytes: TLS and the PROXY protocol."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from gateway.config import BackendTls, Endpoint, ListenerTls, TcpAddress, UnixAddress
from gateway.config.addresses import parse_endpoint
from gateway.errors import BackendTimeout, BackendUnreachable, StartupError
from gateway.protocol.proxy_protocol import ProxyAddress, ProxyHeader, ProxyHeaderReader, ProxyTls
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.channel import Channel
from gateway.transport.connector import ClientFacts
from gateway.transport.tls import ServerTls, TlsFacts
from tests.transport.endpoints import accept, connector, listening, tcp_endpoint
from tests.transport.loopback import write_pair

# --- TLS ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tls_backend(tls: ServerTls, **names: str) -> AsyncIterator[Endpoint]:
    """A TLS endpoint that answers what it is sent with the name that it was asked for."""
    with listening() as (sock, _):

        async def serve() -> None:
            while True:
                await trio.lowlevel.wait_readable(sock)
                channel = accept(sock)
                try:
                    await channel.start_tls(tls.context, server_side=True)
                    await channel.send_all(await channel.receive_some())
                except Exception:  # noqa: BLE001 - the dialling side is what is tested
                    pass
                finally:
                    channel.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield tcp_endpoint(sock, host="localhost", tls=True)
            nursery.cancel_scope.cancel()


@pytest.fixture
def authority(ca: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


def serving_tls(ca: trustme.CA, folder: Path, *names: str, client_ca: Path | None = None) -> ServerTls:
    return ServerTls(ListenerTls(certificates=(write_pair(ca, folder, *names),), client_ca=client_ca))


async def test_tls_is_verified_against_the_configured_authority(
    ca: trustme.CA, tmp_path: Path, authority: Path
) -> None:
    async with tls_backend(serving_tls(ca, tmp_path, "localhost")) as endpoint:
        dialed = await connector(endpoint, tls=BackendTls(ca=authority)).dial(key=b"")
        assert isinstance(dialed.channel.sock, ssl.SSLSocket)
        await dialed.channel.send_all(b"secret")
        assert await dialed.channel.receive_some() == b"secret"
        dialed.close()


async def test_the_configured_server_name_is_asked_for_and_verified(
    ca: trustme.CA, tmp_path: Path, authority: Path
) -> None:
    async with tls_backend(serving_tls(ca, tmp_path, "chat.internal")) as endpoint:
        options = BackendTls(ca=authority, server_name="chat.internal")
        (await connector(endpoint, tls=options).dial(key=b"")).close()


@pytest.mark.parametrize("options", [None, BackendTls(server_name="localhost")])
async def test_a_certificate_of_an_unknown_authority_is_a_tls_failure(
    ca: trustme.CA, tmp_path: Path, options: BackendTls | None
) -> None:
    async with tls_backend(serving_tls(ca, tmp_path, "localhost")) as endpoint:
        dialing = connector(endpoint, tls=options)
        with pytest.raises(BackendUnreachable, match="TLS: certificate not accepted: unable to get local issuer"):
            await dialing.dial(key=b"")
        assert dialing.endpoints[0].dials[DialOutcome.TLS_FAILED] == 1


async def test_a_certificate_for_another_name_is_a_tls_failure(ca: trustme.CA, tmp_path: Path, authority: Path) -> None:
    async with tls_backend(serving_tls(ca, tmp_path, "other.test")) as endpoint:
        with pytest.raises(BackendUnreachable, match="TLS: certificate not accepted: Hostname mismatch"):
            await connector(endpoint, tls=BackendTls(ca=authority)).dial(key=b"")


async def test_a_backend_that_never_answers_the_tls_handshake_is_a_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with listening() as (sock, _):
        with pytest.raises(BackendTimeout, match="the TLS handshake was not complete in time"):
            await connector(tcp_endpoint(sock, tls=True), connect_timeout=5.0).dial(key=b"")
        assert trio.current_time() == pytest.approx(5)


def test_a_faulty_authority_file_is_found_at_construction(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        connector(parse_endpoint("tls://chat:9443"), tls=BackendTls(ca=tmp_path / "missing.pem"))


# --- PROXY protocol -----------------------------------------------------------------------------------------------


CLIENT = ClientFacts(
    address=TcpAddress(host="192.0.2.7", port=50123),
    local=TcpAddress(host="198.51.100.1", port=443),
    tls=TlsFacts(
        version="TLSv1.3",
        cipher="TLS_AES_256_GCM_SHA384",
        server_name="chat.example.com",
        client_subject="CN=alice",
        client_common_name="alice",
    ),
    authority="chat.example.com:443",
)


async def receive_header(channel: Channel) -> ProxyHeader:
    reader = ProxyHeaderReader()
    while True:
        header = reader.feed(await channel.receive_some(reader.wanted_bytes))
        if header is not None:
            return header


async def test_a_proxy_header_comes_first_with_address_tls_and_authority() -> None:
    with listening() as (sock, endpoint):
        dialed = await connector(endpoint, proxy_protocol="v2").dial(key=b"", client=CLIENT)
        await dialed.channel.send_all(b"hello")
        backend = accept(sock)
        assert await receive_header(backend) == ProxyHeader(
            client=ProxyAddress(host="192.0.2.7", port=50123),
            server=ProxyAddress(host="198.51.100.1", port=443),
            tls=ProxyTls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", client_common_name="alice"),
            authority="chat.example.com",
        )
        assert await backend.receive_some() == b"hello"
        dialed.close()
        backend.close()


@pytest.mark.parametrize(
    "client",
    [
        replace(CLIENT, address=None, tls=None, authority=None),
        replace(CLIENT, local=UnixAddress(path=Path("/run/gateway.sock")), tls=None, authority="no host"),
    ],
)
async def test_a_client_on_a_unix_socket_is_told_as_unknown(client: ClientFacts) -> None:
    with listening() as (sock, endpoint):
        dialed = await connector(endpoint, proxy_protocol="v2").dial(key=b"", client=client)
        backend = accept(sock)
        assert await receive_header(backend) == ProxyHeader(client=None, server=None)
        dialed.close()
        backend.close()


async def test_no_header_is_sent_where_none_is_configured() -> None:
    with listening() as (sock, endpoint):
        dialed = await connector(endpoint).dial(key=b"", client=CLIENT)
        backend = accept(sock)
        dialed.close()
        assert await backend.receive_some() == b""
        backend.close()


async def test_the_proxy_header_precedes_tls(ca: trustme.CA, tmp_path: Path, authority: Path) -> None:
    tls = serving_tls(ca, tmp_path, "localhost")
    with listening() as (sock, _):
        endpoint = tcp_endpoint(sock, host="localhost", tls=True)

        async def serve() -> None:
            await trio.lowlevel.wait_readable(sock)
            backend = accept(sock)
            header = await receive_header(backend)
            await backend.start_tls(tls.context, server_side=True)
            await backend.send_all(repr(header.client).encode())
            backend.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            dialing = connector(endpoint, tls=BackendTls(ca=authority), proxy_protocol="v2")
            dialed = await dialing.dial(key=b"", client=CLIENT)
            assert b"192.0.2.7" in await dialed.channel.receive_some()
            dialed.close()
