"""Receipts: a client hears of the rungs below the settling one that it asked for, and of no others."""

import pytest
import trio

from gateway.protocol.records import Record, RecordType, Rung
from tests.sessions.harness import backend, config_of, running, tcp_echo
from tests.sessions.routes import records_route, stream_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import scripted


async def acks_until(client: Client, rung: Rung, seq: int) -> list[Record]:
    """All ACKs up to the one that says that `seq` is at `rung`."""
    acks = []
    while True:
        ack = await client.next(RecordType.ACK)
        acks.append(ack)
        if ack[1:3] == (rung, seq):
            return acks


@pytest.mark.parametrize("wanted", [[], ["accepted"], ["written"], ["reached"], ["accepted", "written", "reached"]])
async def test_a_records_backends_client_hears_of_what_it_asked_for(wanted: list[str]) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.open(receipts=wanted))
            link = await service.accept()
            await link.opened()
        await client.data(1, "x")
        await link.next(RecordType.DATA)
        heard: set[int] = set()
        if wanted:
            highest = max(Rung[name.upper()] for name in wanted)
            heard = {ack[1] for ack in await acks_until(client, highest, 1)}
        await link.ack(1)
        heard |= {ack[1] for ack in await acks_until(client, Rung.CONSUMED, 1)}
        assert heard <= {Rung.CONSUMED, *(Rung[name.upper()] for name in wanted)}


async def test_no_rung_is_told_that_is_implied_by_one_that_was_told() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.open(receipts=["accepted", "written", "reached"]))
            link = await service.accept()
            await link.opened()
        told = 0
        for seq in range(1, 20):
            await client.data(seq, "x")
            await link.next(RecordType.DATA)
            await link.ack(seq)
            for _, rung, acked, _ in await acks_until(client, Rung.CONSUMED, seq):
                assert acked > told or rung > Rung.ACCEPTED
            told = seq


async def test_a_stream_backends_client_settles_at_reached_and_hears_of_the_rungs_below() -> None:
    async with tcp_echo() as port, running(config_of(stream_route(port))) as server:
        client = await Client.connect(server)
        opened = await client.open(receipts=["accepted", "written", "reached", "consumed"])
        assert opened["settles_at"] == "reached"
        await client.data(1, "x")
        assert {ack[1] for ack in await acks_until(client, Rung.REACHED, 1)} <= {1, 2, 3}
        assert (await client.next(RecordType.DATA))[3] == b"x"


async def test_each_connection_says_anew_what_it_wants() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        token = ""
        async with trio.open_nursery() as nursery:

            async def begin() -> None:
                nonlocal token
                token = (await client.open(receipts=["accepted"]))["session"]

            nursery.start_soon(begin)
            link = await service.accept()
            await link.opened()
        await client.data(1, "x")
        await acks_until(client, Rung.ACCEPTED, 1)
        client = await Client.connect(server)
        await client.open(token)
        await client.data(2, "x")
        await link.ack(2)
        assert [ack[1] for ack in await acks_until(client, Rung.CONSUMED, 2)] == [Rung.CONSUMED]


async def test_a_client_that_cannot_see_pings_hears_its_last_ack_with_each_of_them() -> None:
    async with backend() as port:
        timeouts = {"keepalive": "0.1s", "keepalive_timeout": "10s"}
        async with running(config_of({**records_route(port), "timeouts": timeouts})) as server:
            client = await Client.connect(server)
            opened = await client.open(heartbeat=True)
            assert opened["heartbeat_seconds"] == 0.1
            assert (await client.next(RecordType.ACK))[1:3] == (Rung.CONSUMED, 0)
            await client.data(1, "x")
            acks = [await client.next(RecordType.ACK) for _ in range(5)]
            assert [ack[1:3] for ack in acks[-3:]] == [(Rung.CONSUMED, 1)] * 3


async def test_a_client_that_does_not_ask_hears_nothing_with_pings() -> None:
    async with backend() as port:
        timeouts = {"keepalive": "0.1s", "keepalive_timeout": "10s"}
        async with running(config_of({**records_route(port), "timeouts": timeouts})) as server:
            client = await Client.connect(server)
            opened = await client.open()
            assert opened["heartbeat_seconds"] is None
            await client.pinged(3)
            assert client.records == []
