"""Receipts that are asked for and not read."""

from tests.attacks.scene import Scene


def test_unread_receipts() -> None:
    with Scene() as scene:
        outcome = scene.run("unread_receipts")
        outcome.check()
        assert outcome.attack.get("ended", 0) == 0, f"it was ended for something else: {outcome.attack}"
