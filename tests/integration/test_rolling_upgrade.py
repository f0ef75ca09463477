"""The zero-loss upgrade: gateways behind a load balancer are replaced one after the other while clients send."""

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import trio
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.trio.client import connect

from gateway.backend import Session as BackendSession
from gateway.backend import SessionEnded, serve
from gateway.client import Rung, Settings, open_session
from tests.support.fleet import Drain, Fleet
from tests.support.gateway import route
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY
from tests.web.runtimes import node, websocket_flags

Data: TypeAlias = str | bytes

ROUNDS: Final = int(os.environ.get("KAKITOME_UPGRADES", "4"))
"""In each of which every gateway is replaced; `make long` takes ten."""

GATEWAYS: Final = 2
PLAIN_CLIENTS: Final = 6
RECORDS_CLIENTS: Final = 2

DRAIN_SECONDS: Final = 2.0
"""The last Close goes out after 70 % of it; the rest is what a busy machine may take for the closing handshakes."""

PACE_SECONDS: Final = 0.04
"""From one message of a client's to its next."""

RETRY_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 300.0

BRISK: Final = Settings(first_delay=0.01, longest_delay=0.2)


def messages() -> Iterator[Data]:
    """Without end: text and binary, small ones, and now and then one that takes many reads to pass."""
    number = 0
    while True:
        number += 1
        text = f"{number} ".ljust(60_000 if number % 20 == 0 else 10 + number * 97 % 3000, "x")
        yield text if number % 3 else text.encode()


class CountingEcho:
    """A backend written with the kit: keeps what each session brought, by its path, and sends it back."""

    def __init__(self) -> None:
        self.received: dict[str, list[Data]] = defaultdict(list)
        self.running = 0
        self._rest = trio.Event()

    async def handle(self, session: BackendSession) -> None:
        self.running += 1
        received = self.received[session.path]
        async for message in session:
            received.append(message)
            with suppress(SessionEnded):  # what came before the end is taken all the same
                await session.send(message)
        self.running -= 1
        self._rest.set()

    async def wait_idle(self) -> None:
        """Waits until every session has ended and all that came in it was taken."""
        while self.running:
            self._rest = trio.Event()
            await self._rest.wait()


# --- clients ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Call:
    """What one WebSocket connection of a plain client came to."""

    path: str
    sent: list[Data] = field(default_factory=list)
    cut_short: Data | None = None
    """The message at which the client was told that the connection closes: it may have been handed over whole."""
    received: list[Data] = field(default_factory=list)
    code: int | None = None
    """Of the Close frame that came; None if the connection ended without."""
    closed_at: float = 0.0


class PlainClient:
    """Sends and receives at once, without knowing of records; when it is closed it comes back with a new connection."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.calls: list[Call] = []
        self._fleet = fleet
        self._name = name

    async def run(self, over: trio.Event) -> None:
        while not over.is_set():
            call = Call(path=f"/plain/{self._name}/{len(self.calls)}")
            try:
                await self._converse(call, over)
            except (OSError, InvalidHandshake):
                await trio.sleep(RETRY_SECONDS)  # nobody has answered yet: not a call

    async def _converse(self, call: Call, over: trio.Event) -> None:
        async with connect(self._fleet.url(call.path), compression=None) as websocket, trio.open_nursery() as nursery:
            self.calls.append(call)

            @nursery.start_soon
            async def receive() -> None:
                try:
                    while True:
                        call.received.append(await websocket.recv())
                except ConnectionClosed as closed:
                    call.closed_at = time.monotonic()
                    call.code = closed.rcvd.code if closed.rcvd is not None else None

            for message in messages():
                if over.is_set():
                    await websocket.aclose()
                    return
                try:
                    await websocket.send(message)
                except ConnectionClosed:
                    call.cut_short = message
                    return
                call.sent.append(message)
                await trio.sleep(PACE_SECONDS)


class RecordsClient:
    """Sends and receives at once in one session, until it is over and every message has come back."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.path = f"/records/{name}"
        self.sent: list[Data] = []
        self.received: list[Data] = []
        self.rungs: set[Rung | None] = set()
        self.resumes = 0
        self._fleet = fleet

    async def run(self, over: trio.Event) -> None:
        has_sent_all = False
        async with open_session(self._fleet.url(self.path), settings=BRISK) as session, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                async for message in session:
                    self.received.append(message)
                    if has_sent_all and len(self.received) == len(self.sent):
                        return

            receipts = []
            for message in messages():
                has_sent_all = over.is_set()  # with this one, whose answer ends the receiving too
                self.sent.append(message)
                receipts.append(await session.post(message))
                if has_sent_all:
                    break
                await trio.sleep(PACE_SECONDS)
            await session.drain()
            self.rungs = {receipt.rung for receipt in receipts}
            self.resumes = session.resumes


class BrowserClient:
    """kakitome.js in Node; sends and receives until its session was resumed `resumes` times, and checks for itself."""

    path: Final = "/browser"

    def __init__(self, fleet: Fleet, *, resumes: int) -> None:
        script = str(REPOSITORY / "tests" / "web" / "conversation.mjs")
        argv = [node(), *websocket_flags(), script, fleet.url(self.path), str(resumes)]
        argv.append(str(int(PACE_SECONDS * 1000)))
        self.process = ServiceProcess(argv, name="the browser client", started="resumed 0 times")


# --- the upgrade --------------------------------------------------------------------------------------------------


async def test_rolling_upgrades_lose_and_double_nothing(tmp_path: Path) -> None:
    backend = CountingEcho()
    over = trio.Event()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            _, port = await nursery.start(serve, backend.handle)
            config = {
                "routes": [route("echo", "/*", f"tcp://127.0.0.1:{port}", framing="records")],
                "timeouts": {"drain": f"{DRAIN_SECONDS}s"},
            }
            async with Fleet(config, tmp_path, size=GATEWAYS) as fleet:
                plain = [PlainClient(fleet, str(index)) for index in range(PLAIN_CLIENTS)]
                records = [RecordsClient(fleet, str(index)) for index in range(RECORDS_CLIENTS)]
                # The first gateway that goes may hold none of a client's connections, each one after it holds all.
                browser = BrowserClient(fleet, resumes=ROUNDS * GATEWAYS - 1)
                async with browser.process, trio.open_nursery() as clients:
                    for run in [client.run for client in plain] + [client.run for client in records]:
                        clients.start_soon(run, over)
                    order = list(range(GATEWAYS)) * ROUNDS
                    drains = [await trio.to_thread.run_sync(fleet.roll, index) for index in order]
                    over.set()
                    assert await trio.to_thread.run_sync(browser.process.wait, PATIENCE_SECONDS) == 0
                await backend.wait_idle()
            nursery.cancel_scope.cancel()

    assert [drain.status for drain in drains] == [0] * ROUNDS * GATEWAYS
    assert not any(drain.of("drain_window_over") for drain in drains)
    for client in records:
        check_nothing_lost_or_doubled(client, backend)
    check_the_browser_client(backend)
    for one in plain:
        check_every_call_ended_in_order(one, backend)
    check_fences_were_settled(plain, drains)
    check_closings_are_spread([call for one in plain for call in one.calls], drains)


def check_nothing_lost_or_doubled(client: RecordsClient, backend: CountingEcho) -> None:
    assert backend.received[client.path] == client.sent
    assert client.received == client.sent
    assert client.rungs == {Rung.CONSUMED}
    assert client.resumes >= ROUNDS * GATEWAYS - 1


def check_the_browser_client(backend: CountingEcho) -> None:
    """What comes back to it, it has checked itself."""
    received = [str(message).rstrip() for message in backend.received[BrowserClient.path]]
    assert received == [f"message {number}" for number in range(1, len(received) + 1)]
    assert received


def check_every_call_ended_in_order(client: PlainClient, backend: CountingEcho) -> None:
    assert len(client.calls) >= ROUNDS * GATEWAYS
    for call in client.calls:
        is_last = call is client.calls[-1]
        assert call.code == (1000 if is_last else 1012)
        assert call.received == call.sent[: len(call.received)], "whole messages, in order, each once"
        arrived = backend.received[call.path]
        assert arrived in (call.sent, [*call.sent, call.cut_short]), "nothing that was sent before the Close is missing"


def check_fences_were_settled(clients: list[PlainClient], drains: list[Drain]) -> None:
    """What the gateway says of the plain clients it has closed is what they have seen: nothing is unknown."""
    calls = {call.path: call for client in clients for call in client.calls[:-1]}
    ended = {entry["path"]: entry for drain in drains for entry in drain.of("session_ended") if entry["path"] in calls}
    assert ended.keys() == calls.keys()
    for path, entry in ended.items():
        downstream = entry["downstream"]
        assert (entry["by"], entry["code"]) == ("gateway", 1012)
        assert downstream["unknown"] is None
        assert downstream["settled"] == len(calls[path].received)


def check_closings_are_spread(calls: list[Call], drains: list[Drain]) -> None:
    spreads = []
    for drain in drains[1:]:
        closings = [call.closed_at for call in calls if drain.began <= call.closed_at <= drain.ended]
        assert len(closings) == PLAIN_CLIENTS
        spreads.append(max(closings) - min(closings))
    # The median, since a machine that is busy may hold up a few of the first ones.
    assert statistics.median(spreads) > DRAIN_SECONDS / 4
