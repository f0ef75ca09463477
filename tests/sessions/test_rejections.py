"""A refusal whose REJECT was lost with its connection is told all the same, through whichever gateway."""

from functools import partial

import pytest
import trio

from gateway.backend import MessageRejected, Session
from gateway.protocol.records import DEFAULT_WINDOW_MESSAGES, RecordType, Rung
from tests.sessions.harness import backend, config_of, running, tcp_echo, until
from tests.sessions.routes import records_route as unprobed_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import scripted

REFUSED = [[2, 2, 4022, "no such room"]]


def records_route(port: int, **delivery: object) -> dict[str, object]:
    return {"backend": {"endpoints": [f"tcp://127.0.0.1:{port}"], "framing": "records"}, "delivery": delivery}


async def particular(session: Session) -> None:
    """Refuses the message `bad`."""
    async for message in session:
        if message == "bad":
            message.reject(4022, "no such room")


class Sender:
    """Sends a message to each client, and learns what became of it."""

    def __init__(self) -> None:
        self.outcomes: list[Rung | MessageRejected | None] = []

    async def __call__(self, session: Session) -> None:
        receipt = await session.send("please")
        try:
            self.outcomes.append(await receipt.settled())
        except MessageRejected as rejected:
            self.outcomes.append(rejected)
        await session.wait_ended()


async def refused(client: Client) -> str:
    """The token of a session of which message 2 was refused, whose client may or may not have heard of it."""
    token: str = (await client.open())["session"]
    for seq, text in ((1, "good"), (2, "bad"), (3, "good")):
        await client.data(seq, text)
    while (await client.next(RecordType.ACK))[2] < 3:
        pass
    await client.cut()
    return token


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_client_that_is_back_hears_what_the_backend_has_refused(elsewhere: bool) -> None:
    async with backend(particular) as port:
        config = config_of(records_route(port))
        async with running(config) as first, running(config) as second:
            token = await refused(await Client.connect(first))
            for _ in range(2):
                client = await Client.connect(second if elsewhere else first)
                opened = await client.open(token)
                assert (opened["resumed"], opened["settled"], opened["rejected"]) == (True, 3, REFUSED)
                await client.cut()


async def test_the_report_of_a_session_that_is_over_tells_what_the_backend_has_refused() -> None:
    async with backend(particular) as port, running(config_of(records_route(port, grace="10ms"))) as server:
        token = await refused(await Client.connect(server))
        await until(lambda: not len(server.registry))
        client = await Client.connect(server)
        opened = await client.open(token)
        assert opened["resumed"] is False
        assert opened["report"]["upstream"] == {
            "settled": 3,
            "unknown": None,
            "never_forwarded": None,
            "rejected": REFUSED,
        }


async def test_a_client_hears_what_the_gateway_itself_has_refused() -> None:
    async with tcp_echo() as port:
        route = {"backend": {"endpoints": [f"tcp://127.0.0.1:{port}"], "framing": "lines"}}
        async with running(config_of(route)) as server:
            client = await Client.connect(server)
            token = (await client.open())["session"]
            await client.data(1, "two\nlines")
            await client.next(RecordType.REJECT)
            await client.cut()
            client = await Client.connect(server)
            [(first, last, code, _)] = (await client.open(token))["rejected"]
            assert (first, last, code) == (1, 1, 1008)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_backend_hears_what_a_client_that_is_back_has_refused(elsewhere: bool) -> None:
    sender = Sender()
    async with backend(sender) as port:
        config = config_of(records_route(port))
        async with running(config) as first, running(config) as second:
            client = await Client.connect(first)
            token = (await client.open())["session"]
            assert (await client.next(RecordType.DATA))[3] == b"please"
            await client.cut()  # and what it said to this went down with it
            client = await Client.connect(second if elsewhere else first)
            opened = await client.open(token, consumed=1, rejected=[[1, 1, 4009, "never"]])
            assert opened["resumed"] is True
            await until(lambda: bool(sender.outcomes))
    [outcome] = sender.outcomes
    assert isinstance(outcome, MessageRejected)
    assert (outcome.seq, outcome.code, outcome.reason) == (1, 4009, "never")


NO_ROOMS = [[1, 1, 4022, "no such room"], [7, 7, 4022, "nor this one"]]


async def test_what_a_client_with_a_small_window_has_refused_is_told_to_a_backend_with_a_large_one() -> None:
    """The backend may have many more messages unsettled than the client takes at a time, and may have heard nothing."""
    async with scripted() as service, running(config_of(unprobed_route(service.port))) as server:
        client = await Client.connect(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.open, window_messages=2))
            link = await service.accept()
            assert (await link.opened())["window_messages"] == DEFAULT_WINDOW_MESSAGES
        for seq in range(1, 9):
            await link.data(seq, "x")
        await client.next(RecordType.DATA)
        await client.send(RecordType.REJECT, 0, 1, b'{"code":4022,"reason":"no such room"}')
        for seq in range(2, 9):
            await client.next(RecordType.DATA)
            if seq == 7:
                await client.send(RecordType.REJECT, 0, seq, b'{"code":4022,"reason":"nor this one"}')
            await client.send(RecordType.ACK, Rung.CONSUMED, seq)
        await link.consumed(8)
        await link.cut()  # and suppose that none of that had come
        link = await service.accept()
        opening = await link.opened(resumed=True)
        assert (opening["consumed"], opening["rejected"]) == (8, NO_ROOMS)
