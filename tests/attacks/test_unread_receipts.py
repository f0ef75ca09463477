"""Receipts that are asked for and not read."""

from tests.attacks.scene import Scene


def test_unread_receipts() -> None:
    with Scene() as scene:
        scene.run("unread_receipts").check(ends=False)
