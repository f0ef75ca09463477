"""Pings without end from clients that read no pongs."""

from tests.attacks.scene import Scene


def test_pings() -> None:
    with Scene() as scene:
        scene.run("pings").check(ends=False)
