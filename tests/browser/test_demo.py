"""The demonstration's page in real browsers: its three services answer, and it keeps to its own security policy."""

import urllib.request
from pathlib import Path

import pytest

from tests.browser.bidi import Tab

HELLO_SAYS = "[...document.querySelectorAll('#hello .log .message')].map((entry) => entry.textContent)"
CHAT_SAYS = "[...document.querySelectorAll('#chat .log .words')].map((entry) => entry.textContent)"
CHAT_EVENTS = "[...document.querySelectorAll('#chat .log .event')].map((entry) => entry.textContent)"


@pytest.fixture
def page(tab: Tab, demo: str) -> Tab:
    tab.navigate(demo)
    tab.wait_for("[...document.querySelectorAll('[data-state=open]')].length === 2")
    return tab


def test_hello_greets_and_answers(page: Tab) -> None:
    page.wait_for(f"{HELLO_SAYS}[0] === 'Hello Client, you connected to /hello'")
    page.type_into("#hello-text", "どやさ!\n")
    page.wait_for(f"{HELLO_SAYS}.includes('Pong: どやさ!')")


def test_the_seal_is_answered_in_utf_8(page: Tab) -> None:
    page.click("#doyasa .stamp")
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
def test_the_page_fits_a_phone_and_a_desk(page: Tab, width: int, tmp_path: Path) -> None:
    page.resize(width, 800)
    page.wait_for(f"innerWidth === {width}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(tmp_path / f"demo-{width}.png")
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter((button) => button.checkVisibility()"
        " && button.getBoundingClientRect().height < 32).map((button) => button.textContent)"
    )
    assert small == [], "a finger hits every button"
