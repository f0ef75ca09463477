"""The demonstration's chat in real browsers: messages climb their ladder, and survive a cut and a stall."""

import pytest

from tests.browser.bidi import Tab

SAYS = "[...document.querySelectorAll('#chat .log .words')].map((entry) => entry.textContent)"
EVENTS = "[...document.querySelectorAll('#chat .log .event')].map((entry) => entry.textContent)"
FATES = "[...document.querySelectorAll('#chat .fate')].map((entry) => entry.textContent)"


@pytest.fixture
def room(tab: Tab, demo: str) -> tuple[Tab, Tab]:
    """Two tabs in the chat room, as Hana and as Ken."""
    other = tab.open_another()
    for each, name in ((tab, "Hana"), (other, "Ken")):
        each.navigate(demo)
        each.type_into("#chat-name", f"{name}\n")
        each.wait_for(f"{EVENTS}.includes('You joined as {name}')")
    return tab, other


def test_a_message_climbs_to_consumed(room: tuple[Tab, Tab]) -> None:
    hana, ken = room
    hana.type_into("#chat-text", "how far?\n")
    hana.wait_for(f"/^consumed in [0-9]+ ms$/.test({FATES}[0])")
    assert hana.evaluate("document.querySelectorAll('#chat .fate .climbed').length") == 4
    ken.wait_for(f"{SAYS}.includes('how far?')")


def test_what_is_written_while_the_connection_is_cut_arrives_once(room: tuple[Tab, Tab]) -> None:
    hana, ken = room
    hana.click("#chat .cut")
    hana.wait_for("document.querySelector('#chat .state').dataset.state === 'parked'")
    for number in range(3):
        hana.type_into("#chat-text", f"Hana {number}\n")
        ken.type_into("#chat-text", f"Ken {number}\n")
    ken.wait_for(f"{SAYS}.length === 3")
    assert hana.evaluate(FATES) == ["waiting here"] * 3
    hana.click("#chat .cut")
    hana.wait_for(f"{FATES}.every((fate) => fate.startsWith('consumed'))")
    hana.wait_for(f"{SAYS}.length === 6")
    ken.wait_for(f"{SAYS}.length === 6")
    mine, others = [f"Hana {number}" for number in range(3)], [f"Ken {number}" for number in range(3)]
    assert hana.evaluate(SAYS) == mine + others
    assert ken.evaluate(SAYS) == others + mine
    resumed = hana.evaluate(f"{EVENTS}.at(-1)")
    assert resumed == "Back: 3 of your messages had waited, 0 were sent again, 0 came twice and were dropped"


def test_a_stalled_service_leaves_messages_short_of_consumed(room: tuple[Tab, Tab]) -> None:
    hana, _ = room
    hana.click("#chat .stall")
    hana.wait_for(f"{EVENTS}.some((event) => event.includes('takes nothing'))")
    hana.type_into("#chat-text", "anybody?\n")
    hana.wait_for(f"['written', 'reached'].includes({FATES}.at(-1))")
    hana.wait_for(f"/^consumed in [0-9.]+ s$/.test({FATES}.at(-1))")
