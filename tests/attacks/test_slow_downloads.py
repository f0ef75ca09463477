"""Downloads that nobody takes."""

from tests.attacks.scene import Scene


def test_slow_downloads() -> None:
    with Scene() as scene:
        scene.run("slow_downloads").check(ends=True)
