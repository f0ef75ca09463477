"""Sessions that are begun and left, as fast as they can be."""

from tests.attacks.scene import Scene


def test_parked_sessions() -> None:
    with Scene() as scene:
        scene.run("parked_sessions").check()
