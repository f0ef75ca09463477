"""Many clients whose credentials expire every few seconds lose nothing and get nothing twice, renewing by both ways.

`make permissions` is the long form: 200 clients for two minutes, with tokens of five seconds.
"""

import os
import time
from pathlib import Path
from typing import Any, Final

import trio

from gateway.access.state import Barred
from gateway.client import (
    ConnectionClosed,
    CredentialJudged,
    Event,
    Opened,
    SessionEnded,
    SessionState,
    Settings,
    StateChanged,
    open_session,
)
from gateway.sessions.revocation import Revocation
from tests.access.doubles import EC, key_set, signed
from tests.sessions.harness import backend, config_of, running
from tests.sessions.issued import asking
from tests.sessions.routes import records_route

CLIENTS: Final = int(os.environ.get("KAKITOME_PERMISSION_CLIENTS", "8"))
SECONDS: Final = float(os.environ.get("KAKITOME_PERMISSION_SECONDS", "7"))
LIFE_SECONDS: Final = float(os.environ.get("KAKITOME_PERMISSION_LIFE", "3"))
PAUSE_SECONDS: Final = 0.2
"""Between two messages of one client."""


SETTINGS: Final = Settings(longest_delay=2.0)


class Holder:
    """One client, and what it was given and has got."""

    def __init__(self, number: int) -> None:
        self.subject = f"subject-{number}"
        self.renews_in_place = number % 2 == 0
        self.sent: list[str] = []
        self.got: list[str] = []
        self.renewals = 0
        self.resumes = 0
        self.ended_at: float | None = None
        self.issuer_is_away = False
        self.cut_early_by = 0.0
        """By how many seconds at the most a connection ended before its permission did."""
        self._shown_until = self._good_until = 0.0

    async def token(self) -> str:
        if not self.renews_in_place and time.time() < self._good_until:
            raise OSError("no token while the old one is good")
        if self.issuer_is_away:
            raise OSError("the issuer is away")
        now = time.time()
        self._shown_until = now + LIFE_SECONDS
        return signed(
            {"iss": "https://issuer", "sub": self.subject, "aud": "kakitome", "iat": now, "exp": now + LIFE_SECONDS}
        )

    def hear(self, event: Event) -> None:
        if isinstance(event, CredentialJudged) and event.code is None:
            self.renewals += 1
            self._good_until = self._shown_until
        elif isinstance(event, Opened):
            self._good_until = self._shown_until
        elif isinstance(event, StateChanged) and event.state is SessionState.WAITING:
            self.cut_early_by = max(self.cut_early_by, self._good_until - time.time())

    async def talk(self, url: str, until: float, delay_seconds: float) -> None:
        """Begins again where its first token was too old when its turn came: then there is no session yet to lose."""
        await trio.sleep(delay_seconds)
        while True:
            try:
                await self._talk(url, until)
                return
            except ConnectionClosed as closed:
                if closed.code != 3000 or self.sent:
                    raise

    async def _talk(self, url: str, until: float) -> None:
        try:
            async with open_session(url, token=self.token, on_event=self.hear, settings=SETTINGS) as session:
                number = 0
                while trio.current_time() < until or len(self.got) < len(self.sent):
                    if trio.current_time() < until:
                        number += 1
                        self.sent.append(f"{self.subject}: {number}")
                        await session.post(self.sent[-1])
                        self.got.append(str(await anext(session)))
                    await trio.sleep(PAUSE_SECONDS)
                self.resumes = session.resumes
                await session.drain()
        except SessionEnded as ended:
            assert ended.code == 3000  # noqa: PT017 -- it is not always raised
            self.ended_at = trio.current_time()


def by_keys_in(folder: Path) -> dict[str, Any]:
    """The method that takes our tokens."""
    keys = folder / "keys.json"
    keys.write_bytes(key_set(EC))
    return {
        "issuers": [{"issuer": "https://issuer", "keys": str(keys)}],
        "audiences": ["kakitome"],
        "algorithms": ["ES256"],
        "leeway": 0,
    }


async def test_nothing_is_lost_or_doubled_while_credentials_come_and_go(tmp_path: Path) -> None:
    jwt = by_keys_in(tmp_path)
    holders = [Holder(number) for number in range(CLIENTS)]
    revoked = holders[-2]  # it is attached all the time
    async with backend() as port:
        route = asking(records_route(port), methods=[{"jwt": jwt}])
        route["limits"] = {"connections_per_address": None}
        async with running(config_of(route)) as server:
            url = f"ws://{server.addresses[0]}/"
            end = trio.current_time() + SECONDS
            async with trio.open_nursery() as nursery:
                for number, holder in enumerate(holders):
                    # Not all at once: a crowd's last one would have its turn when its token is no good any more.
                    nursery.start_soon(holder.talk, url, end, number * SECONDS / 8 / CLIENTS)
                await trio.sleep_until(end - SECONDS / 4)
                sent = len(revoked.sent)
                assert (await Revocation(server).bar(Barred.SUBJECT, revoked.subject, seconds=None)).ended == 1
    assert revoked.ended_at is not None
    assert len(revoked.sent) <= sent + 1
    for holder in [*holders[:-2], holders[-1]]:
        assert holder.ended_at is None
        assert holder.got == holder.sent
        assert holder.renewals if holder.renews_in_place else holder.resumes


class KeyServer:
    """An issuer's key set over HTTP, which can be killed and started again at the same address."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._port = 0
        self.fetches = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/keys"

    async def start(self) -> None:
        self._scope = trio.CancelScope()
        self._port = await self._nursery.start(self._serve)

    def kill(self) -> None:
        self._scope.cancel()

    async def _serve(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        with self._scope:
            listeners = await trio.open_tcp_listeners(self._port, host="127.0.0.1")
            task_status.started(int(listeners[0].socket.getsockname()[1]))
            await trio.serve_listeners(self._answer, listeners)

    async def _answer(self, stream: trio.SocketStream) -> None:
        body = key_set(EC)
        async with stream:
            await stream.receive_some()
            self.fetches += 1
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
            await stream.send_all(head + body)


async def test_while_the_issuer_is_away_nobody_is_cut_before_the_end_and_nothing_is_lost() -> None:
    """Killed for the middle half of the time, its keys with it: permissions end, sessions wait, and all come back."""
    holders = [Holder(number) for number in range(CLIENTS)]
    async with backend() as port, trio.open_nursery() as nursery:
        issuer = KeyServer(nursery)
        await issuer.start()
        jwt = {
            "issuers": [{"issuer": "https://issuer", "keys_url": issuer.url}],
            "audiences": ["kakitome"],
            "algorithms": ["ES256"],
            "leeway": 0,
            "refresh": "30s",  # so that it is asked in vain, in the long form
        }
        route = asking(records_route(port), methods=[{"jwt": jwt}])
        route["limits"] = {"connections_per_address": None}
        async with running(config_of(route)) as server:
            url = f"ws://{server.addresses[0]}/"
            begin = trio.current_time()
            async with trio.open_nursery() as clients:
                for number, holder in enumerate(holders):
                    clients.start_soon(holder.talk, url, begin + SECONDS, number * SECONDS / 8 / CLIENTS)
                for moment, is_away in ((1 / 4, True), (3 / 4, False)):
                    await trio.sleep_until(begin + moment * SECONDS)
                    for holder in holders:
                        holder.issuer_is_away = is_away
                    if is_away:
                        assert issuer.fetches
                        issuer.kill()
                    else:
                        await issuer.start()
        nursery.cancel_scope.cancel()
    for holder in holders:
        assert holder.ended_at is None
        assert holder.got == holder.sent
        assert holder.resumes
        assert holder.cut_early_by <= 0.0
