"""The zero-loss upgrade as a page sees it: both gateways behind its balancer are replaced while it sends."""

from pathlib import Path
from typing import Final

from gateway.backend import Session
from tests.browser.bidi import Tab
from tests.client.kit_backend import kit_backend
from tests.support.fleet import Fleet
from tests.support.gateway import route

PAGE: Final = Path(__file__).parent / "kakitome_js"
CSP: Final = "default-src 'self'; connect-src 'self' ws:"
ROLLS: Final = (0, 1, 0)


async def echo(session: Session) -> None:
    async for message in session:
        await session.send(message)


def test_a_page_loses_and_doubles_nothing(tab: Tab, tmp_path: Path) -> None:
    with kit_backend(echo) as port:
        routes = [
            route("echo", "/echo", f"tcp://127.0.0.1:{port}", framing="records"),
            {"name": "page", "match": {"path": "/page/*"}, "files": str(PAGE), "csp": CSP},
        ]
        with Fleet({"routes": routes, "timeouts": {"drain": "1s"}}, tmp_path) as fleet:
            tab.navigate(f"http://127.0.0.1:{fleet.port}/page/")
            tab.wait_for("window.test")
            tab.evaluate(f"test.begin('{fleet.url('/echo')}', {{}})")
            tab.evaluate("void test.pump()")
            tab.wait_for("test.diary.received.length > 20")
            drains = [fleet.roll(index) for index in ROLLS]
            arrived = tab.evaluate("test.diary.received.length")
            tab.wait_for(f"test.diary.received.length > {arrived + 20}")
            tab.evaluate("test.isPumping = false")
            tab.wait_for("test.isSettled() && test.diary.received.length >= test.diary.sent", seconds=60)
            sent = tab.evaluate("test.diary.sent")
            received = tab.evaluate("test.diary.received")
            assert [tuple(entry) for entry in received] == [(n, f"message {n}") for n in range(1, sent + 1)]
            assert set(tab.evaluate("test.outcomes")) == {"consumed"}
            assert tab.evaluate("test.lost") == 0
            # It was at one of the two when the first was replaced, and had to move for each one after it.
            assert tab.evaluate("test.line.statistics.resumes") >= len(ROLLS) - 1
        assert [drain.status for drain in drains] == [0] * len(ROLLS)
