"""One session taken up again and again, each time with all of its window to be sent again."""

from tests.attacks.scene import Scene


def test_resumes() -> None:
    with Scene() as scene:
        scene.run("resumes").check(ends=True)
