"""Messages of one byte for a backend that reads nothing."""

from tests.attacks.scene import Scene


def test_one_byte_messages() -> None:
    with Scene() as scene:
        scene.run("one_byte_messages").check(ends=False)
