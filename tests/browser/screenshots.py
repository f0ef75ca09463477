"""`python -m tests.browser.screenshots`: the demonstration's page as people meet it, as PNG in reports/screenshots.

In Chromium: on a desk and on a phone, light and dark, in English, in Japanese, and without any font that has Japanese;
empty, in use, with 200 messages, with the connection cut, and with the gateway stopped. To be looked at: no test can
say whether a page is pleasant.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from tests.browser import bidi
from tests.browser.bidi import Tab
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY, need

FOLDER: Final = REPOSITORY / "reports" / "screenshots"
SIZES: Final = {"desk": (1280, 900), "phone": (390, 844)}
LOOKS: Final = {
    "light": (),
    "dark": ("--blink-settings=preferredColorScheme=0",),
    "no-cjk-font": (),
    "japanese": ("--accept-lang=ja",),
}
WITHOUT_CJK: Final = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <selectfont><rejectfont>
    <pattern><patelt name="lang"><string>ja</string></patelt></pattern>
    <pattern><patelt name="lang"><string>zh-cn</string></patelt></pattern>
    <pattern><patelt name="lang"><string>ko</string></patelt></pattern>
  </rejectfont></selectfont>
</fontconfig>
"""
"""For fontconfig: this machine's fonts but those."""
MESSAGES: Final = 200

OPEN_STATES: Final = "[...document.querySelectorAll('[data-state=open]')]"
FILL: Final = """
(() => {
  const input = document.querySelector('#chat-text');
  for (let number = 1; number <= %d; number += 1) {
    input.value = `message ${number}`;
    input.form.requestSubmit();
  }
})()
"""


@contextmanager
def demonstration() -> Iterator[tuple[str, ServiceProcess]]:
    """A running demonstration: the URL of its page, and its process."""
    argv = [sys.executable, "-m", "gateway", "demo", "--bind", "127.0.0.1:0"]
    with ServiceProcess(argv, name="the demo", started=r"(http://127\.0\.0\.1:\d+)", folder=REPOSITORY) as service:
        assert service.started_match is not None
        yield service.started_match[1] + "/", service


def join(tab: Tab, name: str) -> None:
    """Into the chat, by the keyboard."""
    tab.type_into("#chat-name", f"{name}\n")
    tab.wait_for("document.querySelector('#chat .state').dataset.state === 'open'")


def fill(tab: Tab, messages: int = MESSAGES) -> None:
    """Says so many things in the chat, and waits until all of them are settled."""
    tab.evaluate(FILL % messages)
    tab.wait_for(f"document.querySelectorAll('#chat .fate[data-fate=settled]').length >= {messages}", seconds=60)


def photograph(tab: Tab, name: str) -> None:
    """What a screen shows, at each size."""
    for size, (width, height) in SIZES.items():
        tab.resize(width, height)
        tab.wait_for(f"innerWidth === {width}")
        tab.evaluate("scrollTo(0, 0)")
        tab.evaluate("new Promise((done) => setTimeout(done, 300))")  # until what moves has come to rest
        tab.screenshot(FOLDER / f"{name}-{size}.png")


def photograph_below(tab: Tab, name: str) -> None:
    """What a phone shows of the cards below the chat."""
    tab.resize(*SIZES["phone"])
    for card in ("hello", "doyasa", "echo"):
        tab.evaluate(f"document.getElementById('{card}').scrollIntoView({{block: 'start', behavior: 'instant'}})")
        tab.screenshot(FOLDER / f"{name}-phone-{card}.png")


def tell_the_story(tab: Tab, look: str) -> None:
    """One visit: the page opens, somebody joins, things break, 200 messages are said, the gateway goes."""
    with demonstration() as (url, service):
        tab.resize(*SIZES["desk"])
        tab.navigate(url)
        tab.wait_for(f"{OPEN_STATES}.length === 3")
        photograph(tab, f"{look}-1-opened")
        tab.resize(*SIZES["desk"])
        join(tab, "Hana")
        other = tab.open_another()
        other.navigate(url)
        join(other, "Ken")
        other.type_into("#chat-text", "Good morning! Has the parcel come?\n")
        tab.wait_for("document.querySelector('#chat .words')")
        for card in ("hello", "echo"):
            tab.type_into(f"#{card}-text", "Are you there?\n")
        for _ in range(3):
            tab.click("#doyasa .stamp")
        fill(tab, 3)
        tab.click("#chat .cut")
        tab.click("#echo .cut")
        tab.wait_for("document.querySelector('#chat .state').dataset.state === 'parked'")
        tab.evaluate(FILL % 2)
        tab.type_into("#echo-text", "And now?\n")
        photograph(tab, f"{look}-2-cut")
        photograph_below(tab, f"{look}-2-cut")
        tab.resize(*SIZES["desk"])
        tab.click("#chat .cut")
        tab.click("#echo .cut")
        fill(tab)
        photograph(tab, f"{look}-3-messages")
        service.process.terminate()
        service.process.wait()
        tab.wait_for("!document.getElementById('away').hidden")
        tab.evaluate(FILL % 2)
        photograph(tab, f"{look}-4-stopped")


def japanese_fonts() -> list[str]:
    """Those that fontconfig finds."""
    listing = [need("fc-list", "apt-get install fontconfig"), ":lang=ja", "family"]
    return subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


@contextmanager
def fonts_for(look: str) -> Iterator[None]:
    """Browsers that begin within have this machine's fonts, or those without Japanese."""
    if look != "no-cjk-font":
        if look == "japanese" and not japanese_fonts():
            click.echo("japanese: no font here has it, boxes are seen in its place: apt-get install fonts-vlgothic")
        yield
        return
    before = os.environ.get("FONTCONFIG_FILE")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fonts.conf"
        file.write_text(WITHOUT_CJK)
        os.environ["FONTCONFIG_FILE"] = str(file)
        try:
            assert not japanese_fonts()
            yield
        finally:
            del os.environ["FONTCONFIG_FILE"]
            if before is not None:
                os.environ["FONTCONFIG_FILE"] = before


def main() -> None:
    """Takes all of them anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for look in sys.argv[1:] or LOOKS:
        with (
            fonts_for(look),
            tempfile.TemporaryDirectory() as folder,
            bidi.chromium(Path(folder), *LOOKS[look]) as session,
            session.open_tab() as tab,
        ):
            tell_the_story(tab, look)
            for line in session.console:
                click.echo(f"{look}: console: {line}")
    click.echo(f"screenshots in {FOLDER}")


if __name__ == "__main__":
    main()
