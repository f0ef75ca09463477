"""Attacks of several kinds at once, which share no limit but the process's."""

from tests.attacks.plan import mix
from tests.attacks.scene import Scene


def test_mix() -> None:
    with Scene() as scene:
        scene.run(*mix(connections=200), seconds=2.0).check()
