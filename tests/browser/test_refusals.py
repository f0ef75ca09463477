"""A page that a real gateway refuses, in real browsers: it is told why, and what lets it in is tried."""

import sys
from collections.abc import Iterator

import pytest

from tests.browser.bidi import Tab
from tests.browser.test_kakitome_js import PAGE
from tests.support.gateway import GatewayProcess, route
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY

CSP = "default-src 'self'; connect-src 'self' ws: http:"
ELSEWHERE = ["https://app.example"]
TOKENS = {
    "credential": {"open": True},
    "methods": [{"token": {"tokens": [{"subject": "hana", "token": "the-token-of-hana"}]}}],
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    argv = [sys.executable, "-m", "gateway.backend.echo"]
    with ServiceProcess(argv, started=r"listening on (\S+)", environment={"PYTHONPATH": str(REPOSITORY)}) as echo:
        assert echo.started_match is not None
        endpoint = f"tcp://{echo.started_match[1]}"
        routes = [
            route("strict", "/strict", endpoint, framing="records") | {"origins": ELSEWHERE},
            route("guarded", "/guarded", endpoint, framing="records", authentication=TOKENS),
            {"name": "page", "match": {"path": "/page/*"}, "files": str(PAGE), "csp": CSP},
        ]
        with GatewayProcess({"routes": routes}) as gateway:
            yield gateway


def begin(tab: Tab, page: str, target: str, options: str = "{}") -> None:
    tab.navigate(page)
    tab.wait_for("window.test")
    tab.evaluate(f"test.begin('{target}', {options})")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_that_is_refused_for_its_origin_is_told_what_to_add(
    gateway: GatewayProcess, tab: Tab, host: str
) -> None:
    page = f"http://{host}:{gateway.port()}"
    begin(tab, f"{page}/page/", f"ws://127.0.0.1:{gateway.port()}/strict")
    words = f"this gateway refuses pages of {page}; add it to routes[].origins"
    told = tab.wait_for(f"test.errors.find((error) => error.includes('{words}'))")
    assert told.startswith("ConnectionFailed: no connection to ws://127.0.0.1")
    assert [line for line in tab.session.console if words in line], "the console says so too"
    assert tab.evaluate("test.states") == []


def test_a_path_that_leads_nowhere_is_told_of_across_origins(gateway: GatewayProcess, tab: Tab) -> None:
    begin(tab, f"http://localhost:{gateway.port()}/page/", f"ws://127.0.0.1:{gateway.port()}/typo")
    tab.wait_for("test.errors.some((error) => error.includes('nothing is served at this host and path'))")


def test_a_stale_token_is_renewed_and_the_conversation_goes_on(gateway: GatewayProcess, tab: Tab) -> None:
    options = "{token: async ({refused}) => refused ? 'the-token-of-hana' : 'stale'}"
    begin(tab, gateway.http_url("/page/"), gateway.url("/guarded"), options)
    tab.evaluate("test.send(1)")
    tab.wait_for("test.outcomes[0] === 'consumed'")
    assert tab.evaluate("test.errors") == []


def test_a_token_that_is_not_good_ends_the_conversation(gateway: GatewayProcess, tab: Tab) -> None:
    begin(tab, gateway.http_url("/page/"), gateway.url("/guarded"), "{token: 'another'}")
    tab.wait_for("test.line.state === 'closed'")
