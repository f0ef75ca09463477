"""Attacks of several kinds at once, which share no limit but the process's: each attacker has an address of its own."""

from tests.attacks.plan import mix
from tests.attacks.scene import Scene


def test_mix() -> None:
    with Scene() as scene:
        scene.run(*mix(connections=50)).check()
