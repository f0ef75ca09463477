"""Messages that cannot be carried, whose REJECTs are not read."""

from tests.attacks.scene import Scene


def test_unread_rejects() -> None:
    with Scene() as scene:
        scene.run("unread_rejects").check()
