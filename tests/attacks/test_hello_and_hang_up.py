"""A ClientHello, and gone: the gateway has signed for nobody."""

from tests.attacks.scene import Scene


def test_hello_and_hang_up() -> None:
    with Scene() as scene:
        scene.run("hello_and_hang_up").check()
