"""A backend that pings without end and reads no answer."""

from tests.attacks.scene import Scene


def test_pinging_backend() -> None:
    with Scene() as scene:
        scene.run("pinging_backend").check(ends=False)
