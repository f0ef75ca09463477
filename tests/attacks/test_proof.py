"""What an attack has to show for itself, and that one which was turned away shows nothing."""

import pytest

from tests.attacks.attacker import THREATS
from tests.attacks.proof import CLAIMS, Claim, Seen, unproven

NOTHING = Seen(attacker={})

TURNED_AWAY = Seen(
    attacker={"connections": 900, "sent": 130_000, "received": 90_000, "answered": 0, "ended": 892, "left": 8},
    gained={
        "kakitome_handshakes_total{outcome=refused,route=}": 900.0,
        "kakitome_refusals_total{reason=overload,route=}": 900.0,
    },
)


def test_every_threat_has_something_to_show() -> None:
    assert CLAIMS.keys() == THREATS.keys()
    assert all(CLAIMS.values())


@pytest.mark.parametrize("threat", THREATS)
def test_one_that_was_turned_away_at_the_door_proves_nothing(threat: str) -> None:
    """As receipts once were, refused at their OPEN, with every aim of the attack met."""
    assert unproven(threat, TURNED_AWAY)
    assert unproven(threat, NOTHING)


@pytest.mark.parametrize(
    ("threat", "claim"), [(threat, claim) for threat, claims in CLAIMS.items() for claim in claims]
)
def test_each_claim_fails_alone_where_nothing_was_done(threat: str, claim: Claim) -> None:
    (words,) = [words for words in unproven(threat, NOTHING) if f": {claim.what}: " in words]
    assert words == f"{threat}: {claim.what}: {claim.figure(NOTHING):g}, at least {claim.least:g} expected"


def test_series_are_added_up_by_the_labels_that_are_named() -> None:
    seen = Seen(
        attacker={},
        gained={
            "kakitome_messages_total{direction=upstream,route=hole}": 7.0,
            "kakitome_messages_total{direction=downstream,route=hole}": 50.0,
            "kakitome_messages_total{direction=upstream,route=hole2}": 900.0,
        },
    )
    assert seen.counted("messages", route="hole") == 57
    assert seen.counted("messages", route="hole", direction="upstream") == 7
    assert seen.counted("messages", route="echo") == 0


def test_what_is_shown_is_enough() -> None:
    seen = Seen(
        attacker={"answered": 8, "unread": 24_748},
        gained={"kakitome_messages_total{direction=upstream,route=echo}": 26_399.0},
        honest=100,
        honest_messages=3_999,
    )
    assert unproven("unread_receipts", seen) == []


def test_the_honest_ones_work_is_not_the_attackers() -> None:
    seen = Seen(
        attacker={"answered": 8, "unread": 24_748},
        gained={"kakitome_messages_total{direction=upstream,route=echo}": 3_999.0},
        honest_messages=3_999,
    )
    assert unproven("unread_receipts", seen) == [
        "unread_receipts: the gateway relayed what was to be receipted: 0, at least 1000 expected"
    ]
