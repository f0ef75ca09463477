"""Messages that inflate a thousandfold for a backend that reads nothing."""

from tests.attacks.scene import Scene


def test_deflate_bombs() -> None:
    with Scene() as scene:
        scene.run("deflate_bombs").check()
