"""A message is refused before it has come whole, and then a connection breaks: whoever is back is believed."""

import json

import pytest
import trio

from gateway.backend import MessageRejected, Session
from gateway.protocol.records import MORE_FLAG, TEXT_FLAG, RecordType
from gateway.relay.records_backend import RecordsBackend
from tests.sessions.harness import backend, config_of, running, until
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, scripted

NO = [[1, 1, 4000, "no"]]


async def half_sent(client: Client, link: BackendLink) -> None:
    """Half of message 1 has come to the client."""
    await link.send(RecordType.DATA, TEXT_FLAG | MORE_FLAG, 1, b"half of ")
    assert (await client.next(RecordType.DATA))[3] == b"half of "


@pytest.mark.parametrize("was_heard", [False, True])
async def test_a_client_that_is_back_has_refused_half_a_message(was_heard: bool) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        token = json.loads((await client.next(RecordType.OPENED))[3])["session"]
        await half_sent(client, link)
        if was_heard:
            await client.send(RecordType.REJECT, 0, 1, b'{"code":4000,"reason":"no"}')
            assert (await link.next(RecordType.REJECT))[2] == 1
        await client.cut()
        client = await Client.connect(server)
        assert (await client.open(token, consumed=1, rejected=NO))["resumed"] is True
        if not was_heard:
            assert (await link.next(RecordType.REJECT))[2] == 1
        await link.send(RecordType.DATA, TEXT_FLAG, 1, b"it")
        await link.data(2, "next")
        while (data := await client.next(RecordType.DATA))[2] == 1:
            pass
        assert data[2:] == (2, b"next")
        await client.send(RecordType.ACK, 4, 2)
        await link.consumed(2)


@pytest.mark.parametrize("was_heard", [False, True])
async def test_a_backend_that_is_back_has_refused_half_a_message(was_heard: bool) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await client.next(RecordType.OPENED)
        await client.send(RecordType.DATA, TEXT_FLAG | MORE_FLAG, 1, b"half of ")
        await link.next(RecordType.DATA)
        if was_heard:
            await link.send(RecordType.REJECT, 0, 1, b'{"code":4000,"reason":"no"}')
            await client.next(RecordType.REJECT)
        await link.cut()
        link = await service.accept()
        await link.opened(1, resumed=True, rejected=NO)
        if not was_heard:
            assert (await client.next(RecordType.REJECT))[2] == 1
        await client.send(RecordType.DATA, TEXT_FLAG, 1, b"it")
        await client.consumed(1)
        await client.data(2, "next")
        while (data := await link.next(RecordType.DATA))[2] == 1:
            pass
        assert data[2:] == (2, b"next")
        assert not [record for record in client.records if record[0] == RecordType.REJECT]


async def test_a_position_within_a_message_that_was_not_refused_is_a_fault() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        token = json.loads((await client.next(RecordType.OPENED))[3])["session"]
        await half_sent(client, link)
        await client.cut()
        for code in (1013, 1002):
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 1, json.dumps({"session": token}).encode())
            assert await client.closed() == code
            if code == 1013:
                link = await service.accept()
                await link.opened(resumed=True)
                await until(lambda: all(isinstance(each.relay.backend, RecordsBackend) for each in server.registry))
        client = await Client.connect(server)
        assert (await client.open(token))["resumed"] is True


async def test_another_gateway_hears_that_half_a_message_was_refused() -> None:
    go_on = trio.Event()
    outcomes: list[MessageRejected] = []

    async def in_halves(session: Session) -> None:
        await session.send_piece(b"half of ", text=True, last=False)
        await go_on.wait()
        receipt = await session.send_piece(b"it", text=True, last=True)
        await session.send("next")
        try:
            await receipt.settled()
        except MessageRejected as rejected:
            outcomes.append(rejected)
        await session.wait_ended()

    async with backend(in_halves) as port:
        config = config_of(records_route(port))
        async with running(config) as first, running(config) as second:
            client = await Client.connect(first)
            token = (await client.open())["session"]
            assert (await client.next(RecordType.DATA))[3] == b"half of "
            await client.cut()
            client = await Client.connect(second)
            assert (await client.open(token, consumed=1, rejected=NO))["resumed"] is True
            go_on.set()
            assert (await client.next(RecordType.DATA))[2:] == (2, b"next")
            await client.send(RecordType.ACK, 4, 2)
            await until(lambda: bool(outcomes))
    assert [(rejected.seq, rejected.code) for rejected in outcomes] == [(1, 4000)]


async def test_what_a_client_says_while_its_backend_is_being_opened_again_is_told() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        for seq in (1, 2, 3):
            await link.data(seq, "x")
            await client.next(RecordType.DATA)
        await link.cut()
        link = await service.accept()
        opening = await link.next(RecordType.OPEN)
        assert opening[2] == 0
        assert not json.loads(opening[3]).get("rejected")
        (session,) = server.registry
        down = session.relay.down
        assert down.ledger is not None
        ledger = down.ledger
        await client.send(RecordType.REJECT, 0, 2, b'{"code":4000,"reason":"no"}')
        await client.send(RecordType.ACK, 4, 1)
        await until(lambda: ledger.settled == 2)
        await link.send(RecordType.OPENED, 0, 0, b'{"resumed": true}')
        assert (await link.next(RecordType.REJECT))[2] == 2
        await link.consumed(2)
        await client.send(RecordType.ACK, 4, 3)
        await link.consumed(3)
        # And what a list told need not be told again.
        await link.cut()
        link = await service.accept()
        assert (await link.opened(resumed=True))["rejected"] == [[2, 2, 4000, "no"]]
        await link.data(4, "y")
        await client.next(RecordType.DATA)
        await client.send(RecordType.ACK, 4, 4)
        await link.consumed(4)
        assert not [record for record in link._records if record[0] == RecordType.REJECT]
