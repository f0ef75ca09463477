"""Fragments of a byte each of one message that a framing gathers."""

from tests.attacks.scene import Scene


def test_one_byte_fragments() -> None:
    with Scene() as scene:
        scene.run("one_byte_fragments").check()
