"""The demonstration's page in real browsers: its three services answer, and it keeps to its own security policy."""

import os
import urllib.request
from pathlib import Path

import pytest

from tests.browser.bidi import Tab
from tests.browser.screenshots import FOLDER, SIZES, demonstration, fill, join

HELLO_SAYS = "[...document.querySelectorAll('#hello .log .message')].map((entry) => entry.textContent)"
CHAT_SAYS = "[...document.querySelectorAll('#chat .log .words')].map((entry) => entry.textContent)"
CHAT_EVENTS = "[...document.querySelectorAll('#chat .log .event')].map((entry) => entry.textContent)"


DEPARTURE_SECONDS = {"chromium": 15, "firefox": 45}
"""Within half of the demonstration's grace of 30 s the page itself has told that it goes. Firefox may cut its script
short as the tab is closed (`dom.ipc.cancel_content_js_when_navigating`): then that is seen when the grace is over."""


def browser_name() -> str:
    """Which browser the test that runs now has."""
    return "firefox" if "firefox" in os.environ["PYTEST_CURRENT_TEST"] else "chromium"


def artefact(name: str) -> Path:
    """Where a screenshot is kept for whoever looks at the tests' results; one file for each browser."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    return FOLDER / f"test-{browser_name()}-{name}"


def box(tab: Tab, selector: str) -> dict[str, float]:
    """Where an element stands in the viewport, in CSS pixels."""
    found: dict[str, float] = tab.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
    return found


@pytest.fixture
def page(tab: Tab, demo: str) -> Tab:
    tab.navigate(demo)
    tab.wait_for("[...document.querySelectorAll('[data-state=open]')].length === 3")
    return tab


def test_hello_greets_and_answers(page: Tab) -> None:
    page.wait_for(f"{HELLO_SAYS}[0] === 'Hello Client, you connected to /hello'")
    page.type_into("#hello-text", "どやさ!\n")
    page.wait_for(f"{HELLO_SAYS}.includes('Pong: どやさ!')")


def test_the_seal_is_answered_in_utf_8(page: Tab) -> None:
    page.click("#doyasa .stamp")
    page.wait_for(
        "document.querySelector('#doyasa .imprint [data-fate=settled] .note').textContent === 'answered: no. 1'"
    )
    assert "どやさ" in page.wait_for("document.querySelector('#doyasa .answer').textContent")


def test_what_one_tab_says_all_tabs_get(page: Tab, demo: str) -> None:
    page.type_into("#chat-name", "Hana\n")
    page.wait_for(f"{CHAT_EVENTS}.includes('You joined as Hana')")
    other = page.open_another()
    other.navigate(demo)
    other.type_into("#chat-name", "Ken\n")
    page.wait_for(f"{CHAT_EVENTS}.includes('Ken joined')")
    other.type_into("#chat-text", "こんにちは\n")
    for tab in (page, other):
        tab.wait_for(f"{CHAT_SAYS}.includes('こんにちは')")
    other.click("#chat .leave")
    page.wait_for(f"{CHAT_EVENTS}.includes('Ken left')")


def test_the_page_keeps_to_a_strict_security_policy(page: Tab, demo: str) -> None:
    with urllib.request.urlopen(demo, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy or "default-src 'self'" in policy
    assert "unsafe" not in policy
    violations = [line for line in page.session.console if line.startswith("error") or "Content-Security" in line]
    assert violations == []


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_a_phone_and_a_desk(page: Tab, width: int) -> None:
    page.resize(width, 800)
    page.wait_for(f"innerWidth === {width}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(artefact(f"fits-{width}.png"))
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter((button) => button.checkVisibility()"
        " && button.getBoundingClientRect().height < 32).map((button) => button.textContent)"
    )
    assert small == [], "a finger hits every button"


@pytest.mark.parametrize("size", SIZES)
def test_200_messages_leave_the_composer_in_view_and_the_page_as_high_as_it_was(page: Tab, size: str) -> None:
    width, height = SIZES[size]
    page.resize(width, height)
    page.wait_for(f"innerWidth === {width}")
    join(page, "Hana")
    before = page.evaluate("document.documentElement.scrollHeight")
    fill(page)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(artefact(f"200-messages-{size}.png"))
    assert page.evaluate("document.documentElement.scrollHeight") == before
    composer, log = box(page, "#chat .say"), box(page, "#chat .log")
    assert 0 < log["height"] < composer["top"] <= composer["bottom"] <= height
    assert page.evaluate("document.querySelector('#chat .log').scrollHeight > 10_000"), "it scrolls"
    last = box(page, "#chat .log li:last-child")
    assert log["top"] <= last["top"], "the newest message is in sight"
    assert last["bottom"] <= log["bottom"] + 1, "the newest message is in sight"


def test_a_reader_who_has_scrolled_up_stays_where_they_are(page: Tab) -> None:
    join(page, "Hana")
    fill(page, 60)
    page.evaluate("document.querySelector('#chat .log').scrollTop = 300")
    page.evaluate("new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))")
    fill(page, 61)
    assert page.evaluate("document.querySelector('#chat .log').scrollTop") == 300


@pytest.mark.parametrize("size", SIZES)
def test_what_there_is_to_break_is_seen_before_joining_and_the_chat_comes_first(page: Tab, size: str) -> None:
    width, height = SIZES[size]
    page.resize(width, height)
    page.wait_for(f"innerWidth === {width}")
    assert page.evaluate("document.querySelector('main, section').id") == "chat"
    assert page.evaluate("document.querySelector('.lead').textContent").startswith("Join, then break it.")
    for selector in (".lead", "#chat .cut", "#chat .stall", "#chat .legend", "#chat .join button"):
        place = box(page, selector)
        assert 0 <= place["top"] < place["bottom"] <= height, selector
    assert page.evaluate(
        "[...document.querySelectorAll('.legend li')].map((rung) => rung.querySelectorAll('.climbed').length)"
    ) == [1, 2, 3, 4]


def test_a_press_of_the_seal_is_seen_before_it_is_answered(page: Tab) -> None:
    seen = page.evaluate(
        "(() => { document.querySelector('#doyasa .stamp').click();"
        " return document.querySelectorAll('#doyasa .imprint .mark').length; })()"
    )
    assert seen == 1


def test_the_plain_service_is_reached_and_nginx_would_have_told_less(page: Tab) -> None:
    page.type_into("#echo-text", "one\n")
    page.wait_for("document.querySelector('#echo .fate').textContent.startsWith('reached in')")
    page.wait_for("document.querySelector('#echo .echoed').textContent === 'came back'")
    assert page.evaluate("document.querySelectorAll('#echo .fate .climbed').length") == 3
    assert page.evaluate("document.querySelector('#echo .nginx').textContent") == "send() returned. Nothing more, ever."
    page.click("#echo .cut")
    page.wait_for("document.querySelector('#echo .state').textContent.startsWith('offline, next try in')")
    page.type_into("#echo-text", "two\n")
    assert "1006" in page.evaluate("[...document.querySelectorAll('#echo .nginx')].at(-1).textContent")
    page.click("#echo .cut")
    page.wait_for("[...document.querySelectorAll('#echo .echoed')].at(-1).textContent === 'came back'")


def test_cutting_and_mending_leave_no_red_line_in_the_console(page: Tab) -> None:
    join(page, "Hana")
    page.click("#chat .cut")
    page.wait_for("document.querySelector('#chat .state').dataset.state === 'parked'")
    page.click("#chat .cut")
    page.wait_for("document.querySelector('#chat .state').dataset.state === 'open'")
    assert [line for line in page.session.console if line.startswith(("error", "warn"))] == []


def test_a_closed_tab_leaves_the_list(page: Tab, demo: str) -> None:
    join(page, "Hana")
    other = page.open_another()
    other.navigate(demo)
    join(other, "Ken")
    page.wait_for("document.querySelector('#chat .members').textContent.includes('Ken')")
    other.close()
    gone = "!document.querySelector('#chat .members').textContent.includes('Ken')"
    page.wait_for(gone, seconds=DEPARTURE_SECONDS[browser_name()])


def test_a_banner_tells_that_the_gateway_is_away(tab: Tab) -> None:
    with demonstration() as (url, service):
        tab.navigate(url)
        tab.wait_for("document.querySelectorAll('[data-state=open]').length === 3")
        assert tab.evaluate("document.getElementById('away').hidden")
        service.process.terminate()
        service.process.wait()
        tab.wait_for("!document.getElementById('away').hidden")
        tab.wait_for("/^offline, next try in [1-5] s$/.test(document.querySelector('#hello .state').textContent)")
        tab.screenshot(artefact("stopped.png"))


def test_all_of_it_is_there_in_japanese_and_the_switch_is_kept(page: Tab, demo: str) -> None:
    names = (
        "import('./words.js').then(({ TABLES }) => [TABLES.en, TABLES.ja].map((table) => Object.keys(table).sort()))"
    )
    english, japanese = page.evaluate(names)
    assert english == japanese
    used = page.evaluate("[...document.querySelectorAll('[data-words]')].map((node) => node.dataset.words)")
    assert set(used) <= set(english)
    page.click("#language")
    assert page.evaluate("document.documentElement.lang") == "ja"
    assert page.evaluate("document.querySelector('#hello .state').textContent") == "オンライン"
    assert page.evaluate("document.querySelector('#chat .cut').textContent") == "接続を切る"
    page.navigate(demo)
    page.wait_for("document.querySelector('.lead strong').textContent === '参加して、壊してみてください。'")


def test_the_marks_are_drawn_and_need_no_font(page: Tab) -> None:
    drawn = page.evaluate("[...document.querySelectorAll('svg.mark path')].map((path) => path.getBBox().width)")
    assert len(drawn) == 3
    assert all(drawn)
