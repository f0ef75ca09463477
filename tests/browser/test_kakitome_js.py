"""The browser client in real browsers: networks that go and come, reloads, frozen tabs; every message exactly once."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.browser.bidi import Tab
from tests.support.gateway import GatewayProcess, route
from tests.support.process import ServiceProcess
from tests.support.procfs import PROC, process_tree
from tests.support.tools import REPOSITORY
from tests.web.cable import Cable

PAGE: Final = Path(__file__).parent / "kakitome_js"
CSP: Final = "default-src 'self'; connect-src 'self' ws:"

DROPS: Final = 50
RESUMED_TOO_OFTEN: Final = "1013 this session is resumed too often"
RELOADS: Final = 8

FROZEN_SECONDS: Final = float(os.environ.get("KAKITOME_FROZEN_SECONDS", "5"))
"""Many times the gateway's keepalive below; a minute shows the same."""

RENDERERS: Final = (b"--type=renderer", b"-contentproc")
"""What Chromium's and Firefox's processes that run pages have on their command lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A gateway with an echo behind it and the page in front, and the cable that the page's WebSocket runs through."""

    gateway: GatewayProcess
    cable: Cable
    tab: Tab

    def open(self, options: str = "{}") -> None:
        """Loads the page and begins a conversation."""
        self.tab.navigate(self.gateway.http_url("/page/"))
        self.tab.wait_for("window.test")
        self.begin(options)

    def begin(self, options: str = "{}") -> None:
        self.tab.evaluate(f"test.begin('ws://127.0.0.1:{self.cable.port}/echo', {options})")

    def reload(self) -> None:
        self.tab.navigate(self.gateway.http_url("/page/"))
        self.tab.wait_for("window.test")

    def count(self, expression: str) -> int:
        value: int = self.tab.evaluate(expression)
        return value

    def received(self) -> list[tuple[int, str]]:
        """All echoes that any page has seen, with their numbers in the session."""
        return [(seq, text) for seq, text in self.tab.evaluate("test.diary.received")]

    def check_all_once(self) -> None:
        """Every message sent has come back once, in order, and its sender was told so."""
        self.tab.wait_for("test.isSettled() && test.diary.received.length >= test.diary.sent", seconds=60)
        sent = self.count("test.diary.sent")
        assert self.received() == [(number, f"message {number}") for number in range(1, sent + 1)]
        assert set(self.tab.evaluate("test.outcomes")) == {"consumed"}
        assert self.tab.evaluate("test.lost") == 0


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    argv = [sys.executable, "-m", "gateway.backend.echo"]
    with ServiceProcess(argv, started=r"listening on (\S+)", environment={"PYTHONPATH": str(REPOSITORY)}) as echo:
        assert echo.started_match is not None
        routes = [
            route(
                "echo",
                "/echo",
                f"tcp://{echo.started_match[1]}",
                framing="records",
                timeouts={"keepalive": "1s", "keepalive_timeout": "1s"},
            ),
            {"name": "page", "match": {"path": "/page/*"}, "files": str(PAGE), "csp": CSP},
        ]
        with GatewayProcess({"routes": routes}) as gateway:
            yield gateway


@pytest.fixture
def stage(gateway: GatewayProcess, tab: Tab) -> Iterator[Stage]:
    with Cable(gateway.port()) as cable:
        yield Stage(gateway=gateway, cable=cable, tab=tab)


def test_fifty_forced_drops_lose_and_double_nothing(stage: Stage) -> None:
    stage.open()
    stage.tab.evaluate("void test.pump()")
    for drop in range(DROPS):
        stage.tab.wait_for(f"test.line.statistics.resumes === {drop} && test.line.state === 'open'")
        arrived = stage.count("test.diary.received.length")
        stage.tab.wait_for(f"test.diary.received.length > {arrived}")
        stage.cable.cut()
        stage.tab.wait_for(f"test.line.statistics.resumes > {drop}")
    stage.tab.evaluate("test.isPumping = false")
    stage.check_all_once()
    assert stage.tab.evaluate("test.line.statistics.resumes") == DROPS
    # A quick machine drops it faster than one session may be resumed: it is told to wait, does, and comes in.
    assert [error for error in stage.tab.evaluate("test.errors") if RESUMED_TOO_OFTEN not in error] == []


def test_offline_messages_wait_and_online_they_go_at_once(stage: Stage) -> None:
    stage.open("{reconnectMinMs: 60000, reconnectMaxMs: 60000}")
    stage.tab.evaluate("test.send(20)")
    stage.tab.wait_for("test.isSettled()")
    stage.tab.set_online(False)
    stage.tab.wait_for("!navigator.onLine")
    stage.cable.take_down()
    stage.tab.wait_for("test.line.state === 'parked'")
    stage.tab.evaluate("test.send(20)")
    stage.cable.bring_up()
    stage.tab.set_online(True)
    stage.tab.wait_for("test.line.state === 'open'", seconds=20)
    stage.check_all_once()


def test_a_connection_that_died_while_offline_is_made_anew_online(stage: Stage) -> None:
    stage.open()
    stage.tab.evaluate("test.send(20)")
    stage.tab.wait_for("test.isSettled()")
    stage.tab.set_online(False)
    stage.tab.wait_for("!navigator.onLine")
    stage.cable.swallow()  # as a network that one has left: nobody is told
    stage.tab.evaluate("test.send(20)")
    stage.cable.wait_hung_up()
    stage.tab.set_online(True)
    stage.check_all_once()
    assert stage.tab.evaluate("test.line.statistics.resumes") == 1


def test_a_reload_sends_what_was_stored_and_not_settled(stage: Stage) -> None:
    stage.open("{store: 'outbox'}")
    stage.tab.evaluate("test.send(20)")
    stage.check_all_once()
    stage.cable.take_down()
    stage.tab.evaluate("test.send(20)")
    stage.tab.wait_for("test.line.state === 'parked'")
    stage.tab.evaluate(eventually("test.storedMessages('outbox')", 20))
    stage.reload()
    stage.cable.bring_up()
    stage.begin("{store: 'outbox'}")
    stage.tab.wait_for("test.line.unsettled.length === 20 || test.line.state === 'open'")
    stage.tab.evaluate("test.send(5)")
    stage.check_all_once()
    assert stage.tab.evaluate("test.line.statistics.resumes") == 1, "the session went on"
    stage.tab.evaluate(eventually("test.storedMessages('outbox')", 0))


def test_reloads_in_the_midst_of_it_double_nothing(stage: Stage) -> None:
    stage.open("{store: 'outbox'}")
    for _ in range(RELOADS):
        stage.tab.evaluate("void test.pump()")
        arrived = stage.count("test.diary.received.length")
        stage.tab.wait_for(f"test.diary.received.length > {arrived + 10}")
        stage.reload()
        stage.begin("{store: 'outbox'}")
    stage.tab.evaluate("test.send(1)")
    stage.tab.wait_for("test.isSettled() && test.line.unsettled.length === 0", seconds=60)
    last = stage.tab.evaluate("'message ' + test.diary.sent")
    stage.tab.wait_for(f"test.diary.received.at(-1)[1] === '{last}'")
    # A handler that has run just before its page went may run again; the message is the same then.
    by_number = dict(stage.received())
    assert list(by_number) == list(range(1, len(by_number) + 1)), "nothing of the echo's is missing"
    assert len(set(by_number.values())) == len(by_number), "nothing of ours was echoed twice"
    numbers = [int(text.removeprefix("message ")) for text in by_number.values()]
    assert numbers == sorted(numbers)
    assert stage.count("test.diary.sent") - len(numbers) < RELOADS * 20, "only what was not stored yet went with a page"


def test_two_tabs_do_not_share_a_store(stage: Stage) -> None:
    stage.open("{store: 'outbox'}")
    stage.tab.wait_for("test.line.state === 'open'")
    other = Stage(gateway=stage.gateway, cable=stage.cable, tab=stage.tab.open_another())
    other.open("{store: 'outbox'}")
    other.tab.wait_for("test.line.state === 'closed'")
    assert other.tab.evaluate("test.errors") == ["StoreInUse: another tab uses the store kakitome:outbox"]
    other.begin("{store: 'another'}")
    other.tab.wait_for("test.line.state === 'open'")
    assert stage.tab.evaluate("test.line.state") == "open"


def test_the_database_can_be_deleted_and_is_saved_anew(stage: Stage) -> None:
    stage.open("{store: 'outbox'}")
    stage.tab.evaluate("test.send(20)")
    stage.check_all_once()
    stage.cable.take_down()
    stage.tab.evaluate("test.send(20)")
    stage.tab.wait_for("test.line.state === 'parked'")
    stage.tab.evaluate(eventually("test.storedMessages('outbox')", 20))
    assert stage.tab.evaluate("test.deleteStore('outbox')") is True
    stage.tab.evaluate("test.send(1)")
    stage.tab.evaluate(eventually("test.storedMessages('outbox')", 21))
    stage.reload()
    stage.cable.bring_up()
    stage.begin("{store: 'outbox'}")
    stage.tab.wait_for("test.line.state === 'open'")
    stage.tab.evaluate("test.send(5)")
    stage.check_all_once()


def test_a_page_that_only_receives_finds_a_way_that_died_in_silence(stage: Stage) -> None:
    stage.open("{silenceTimeoutMs: 1000}")
    stage.tab.wait_for("test.line.state === 'open'")
    stage.cable.swallow()
    stage.tab.wait_for("test.line.statistics.resumes === 1", seconds=20)
    stage.tab.evaluate("test.send(20)")
    stage.check_all_once()


def eventually(promised: str, wanted: int) -> str:
    """A promise that asks until it is told what is wanted."""
    return f"(async () => {{ while (await {promised} !== {wanted}); return true; }})()"


@contextmanager
def frozen() -> Iterator[None]:
    """Stops the processes that run pages; the browsers' own, and their network's, go on."""
    processes = [pid for pid in process_tree(os.getpid()) if runs_pages(pid)]
    assert processes
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


def runs_pages(pid: int) -> bool:
    try:
        command = (PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(mark in command for mark in RENDERERS)


def test_a_frozen_tab_goes_on_when_it_thaws(stage: Stage) -> None:
    stage.open()
    stage.tab.evaluate("void test.pump()")
    stage.tab.wait_for("test.diary.received.length > 20")
    with frozen():
        time.sleep(FROZEN_SECONDS)  # it is time itself that the page is to miss
    check_pumping(stage)


def test_a_tab_that_lost_its_session_s_connection_while_frozen_resumes(stage: Stage) -> None:
    stage.open()
    stage.tab.evaluate("void test.pump()")
    stage.tab.wait_for("test.diary.received.length > 20")
    with frozen():
        stage.cable.swallow()
        stage.cable.wait_hung_up()
        stage.cable.cut()
    check_pumping(stage)
    assert stage.tab.evaluate("test.line.statistics.resumes") == 1


def check_pumping(stage: Stage) -> None:
    arrived = stage.count("test.diary.received.length")
    stage.tab.wait_for(f"test.diary.received.length > {arrived + 20}")
    stage.tab.evaluate("test.isPumping = false")
    stage.check_all_once()
