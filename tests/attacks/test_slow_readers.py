"""A backend that sends without end to clients that take nothing."""

from tests.attacks.scene import Scene


def test_slow_readers() -> None:
    with Scene() as scene:
        scene.run("slow_readers").check(ends=False)
