"""Messages without a byte, which cost their sender a head each and us an object each."""

from tests.attacks.scene import Scene


def test_empty_messages() -> None:
    with Scene() as scene:
        scene.run("empty_messages").check(ends=False)
