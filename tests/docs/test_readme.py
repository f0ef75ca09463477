"""The README in both languages, and its moving picture."""

import re
from typing import Final
from xml.etree import ElementTree

import pytest
import yaml

from deploy import animation
from tests.docs.pages import blocks, links, prose
from tests.support.tools import REPOSITORY

README, JAPANESE = REPOSITORY / "README.md", REPOSITORY / "README.ja.md"

HEADINGS: Final = {
    "Kakitome 書留": "Kakitome 書留",
    "Try it": "試す",
    "Install it": "インストール",
    "A configuration": "設定",
    "How far to trust it": "どこまで信じてよいか",
    "Run it": "動かす",
    "Read on": "続きを読む",
}


def test_the_japanese_readme_has_the_same_headings() -> None:
    english, japanese = (re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE) for page in (README, JAPANESE))
    assert english == list(HEADINGS)
    assert japanese == list(HEADINGS.values())


def test_both_lead_to_the_same_pages() -> None:
    english, japanese = (
        {link for link in links(page) if not link.startswith(("#", "README"))} for page in (README, JAPANESE)
    )
    assert english == japanese


def test_both_show_the_same_commands_answers_and_configuration() -> None:
    def told(language: str) -> list[list[str]]:
        return [
            [
                re.sub(r"\s+# .*", "", line)
                for page_block in blocks(page, language)
                for line in page_block.text.splitlines()
            ]
            for page in (README, JAPANESE)
        ]

    english, japanese = told("console")
    assert english == japanese
    configurations = [[yaml.safe_load(block.text) for block in blocks(page, "yaml")] for page in (README, JAPANESE)]
    assert configurations[0] == configurations[1]


def test_the_picture_is_current() -> None:
    current = (REPOSITORY / "docs" / "kakitome.svg").read_text() == animation.picture()
    assert current, "run: python -m deploy.animation > docs/kakitome.svg"


def test_every_part_of_the_picture_moves_by_a_rule_of_its_own() -> None:
    """No delays, one length: so a moment can be looked at, and the whole repeats without a jump between parts."""
    picture = animation.picture()
    names = set(re.findall(r"@keyframes (\w+)", picture))
    moving = {
        (element.get("class") or "").split()[-1]
        for element in ElementTree.fromstring(picture).iter()
        if (element.get("class") or "").startswith("a ")
    }
    assert moving == names
    assert "animation-delay" not in picture
    assert "prefers-reduced-motion" in picture
    for rule in re.findall(r"@keyframes \w+\{((?:[\d.]+%\{[^}]*\})+)\}", picture):
        shares = [float(share) for share in re.findall(r"([\d.]+)%", rule)]
        assert shares[0] == 0
        assert shares[-1] == pytest.approx(100)
        assert shares == sorted(shares)


def test_messages_arrive_only_where_the_line_is_whole() -> None:
    for sent in animation.SENT:
        assert not animation.CUT <= sent <= animation.BACK
        assert not sent < animation.CUT < sent + 0.6
    assert animation.FIRST_TRY < animation.CUT < animation.FIRST_TRY + 0.6
