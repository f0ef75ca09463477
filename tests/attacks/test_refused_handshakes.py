"""Requests that are refused, as fast as they are answered."""

from tests.attacks.scene import Scene


def test_refused_handshakes() -> None:
    with Scene() as scene:
        scene.run("refused_handshakes").check()
