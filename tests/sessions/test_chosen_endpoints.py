"""Clients that are led each to an endpoint of its own, by a claim or a token; what a PROXY header tells of them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.protocol.handshake import HandshakeRejected
from gateway.protocol.pieces import Opcode
from gateway.protocol.proxy_protocol import V2_MAX_BYTES
from gateway.protocol.records import RecordType
from tests.sessions.harness import config_of, running, tcp_echo
from tests.sessions.issued import asking, bearer, issued
from tests.sessions.test_permission import renew
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import scripted

LOCAL = [{"networks": ["127.0.0.1/32"], "ports": ["1024-65535"]}]


def choosing(framing: str = "stream", **choice: Any) -> dict[str, Any]:
    """A route whose endpoint is chosen."""
    return {"backend": {"endpoint_from": {"allow": LOCAL, **choice}, "framing": framing, "health": None}}


@asynccontextmanager
async def naming(name: bytes) -> AsyncIterator[int]:
    """A service that says its name; its port."""

    async def converse(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(name)
                await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, converse, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def said_to(plain: Client) -> bytes:
    """The next message to a plain client."""
    with trio.fail_after(10):
        while True:
            for opcode, payload, _ in plain.ws.receive_data(await plain.stream.receive_some()):
                if opcode == Opcode.BINARY:
                    return bytes(payload)


async def test_a_token_file_leads_plain_and_records_clients_to_their_machines(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    async with naming(b"one") as one, naming(b"two") as two:
        tokens.write_text(f"first: 127.0.0.1:{one}\nsecond: 127.0.0.1:{two}\nthird: 127.0.0.2:{one}\n")
        async with running(config_of(choosing(file=tokens))) as server:
            for token, name in (("first", b"one"), ("second", b"two"), ("first", b"one")):
                plain = await Client.connect(server, f"/?token={token}", records=False)
                assert await said_to(plain) == name
                client = await Client.connect(server, f"/?token={token}")
                await client.open()
                assert (await client.next(RecordType.DATA))[3] == name
            for path in ("/", "/?token=third", "/?token=fourth"):
                client = await Client.connect(server, path)
                await client.send(RecordType.OPEN, 0, 0, b"{}")
                assert await client.closed() == 3003
                with pytest.raises(HandshakeRejected, match="403"):
                    await Client.connect(server, path, records=False)
            assert server.metrics.route("test").refusals["endpoint_refused"] == 6


async def test_a_session_leads_to_one_endpoint_and_to_no_other() -> None:
    async with (
        naming(b"one") as one,
        naming(b"two") as two,
        running(config_of(asking(choosing(claim="at")))) as server,
    ):
        first, second = (issued(at=f"127.0.0.1:{port}") for port in (one, two))
        client = await Client.connect(server)
        opened = await client.open(token=first, renew=True)
        answer = await renew(client, 1, second)
        assert answer["code"] == 3003
        assert "does not lead to where" in answer["reason"]
        assert "code" not in await renew(client, 2, first)
        assert (await renew(client, 3, issued(at="10.0.0.1:80")))["code"] == 3003
        for token, resumed, name in ((second, False, b"two"), (first, True, b"one")):
            again = await Client.connect(server)
            answer = await again.open(opened["session"], token=token)
            assert answer["resumed"] is resumed
            assert (await again.next(RecordType.DATA))[3] == name


async def test_a_records_backend_that_was_chosen_is_dialled_again_where_it_was() -> None:
    async with (
        scripted() as service,
        scripted() as other,
        running(config_of(asking(choosing("records", claim="at")))) as server,
        trio.open_nursery() as nursery,
    ):
        for backend in (service, other):
            client = await Client.connect(server)
            nursery.start_soon(partial(client.open, token=issued(at=f"127.0.0.1:{backend.port}")))
            link = await backend.accept()
            await link.opened()
            await link.cut()
            again = await backend.accept()
            await again.opened(resumed=False)


async def test_a_query_token_is_not_told_to_a_records_backend(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []

    async def converse(stream: trio.SocketStream) -> None:
        async with stream:
            size = int.from_bytes(await stream.receive_some(4))
            heard.append(json.loads((await stream.receive_some(size))[10:]))

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, converse, 0, host="127.0.0.1"))
        (tmp_path / "t").write_text(f"secret: 127.0.0.1:{listener.socket.getsockname()[1]}\n")
        async with running(config_of(choosing("records", file=tmp_path / "t", parameter="vm"))) as server:
            with pytest.raises(HandshakeRejected, match="502"):
                await Client.connect(server, "/?a=b&vm=secret", records=False)
        nursery.cancel_scope.cancel()
    assert heard[0]["query"] == "a=b"


async def test_a_proxy_header_tells_who_it_is() -> None:
    entries = [
        {"type": 0xE0, "claim": "sub"},
        {"type": 0xE1, "claim": ["realm", "roles"]},
        {"type": 0xE2, "claim": "absent"},
    ]
    async with tcp_echo() as port:
        endpoints = {"endpoints": [f"tcp://127.0.0.1:{port}"], "health": None}
        told = {"backend": endpoints | {"proxy_protocol": "v2", "proxy_protocol_entries": entries}}
        async with running(config_of(asking(told, optional=True))) as server:
            token = issued("alice", realm={"roles": ["ops", "日本"]})
            client = await Client.connect(server, records=False, headers=bearer(token))
            header = await said_to(client)  # the echo of what came first
            assert b"\xe0\x00\x05alice" in header
            roles = '["ops","日本"]'.encode()
            assert b"\xe1" + len(roles).to_bytes(2) + roles in header
            assert b"\xe2\x00" not in header
            assert int.from_bytes(header[14:16]) == len(header) - 16 < V2_MAX_BYTES
            nobody = await Client.connect(server, records=False)
            assert b"\xe0" not in (await said_to(nobody))[16:]
            token = issued("a" * 1025)
            with pytest.raises(HandshakeRejected, match="403"):
                await Client.connect(server, records=False, headers=bearer(token))
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 0, json.dumps({"token": token}).encode())
            assert await client.closed() == 3003
