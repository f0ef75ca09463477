"""Scenes for the tests of relays, closed when a test is over."""

from collections.abc import Iterator

import pytest

from tests.relay.harness import NewScene, Scene


@pytest.fixture
def new_scene() -> Iterator[NewScene]:
    scenes: list[Scene] = []

    def make(**options: object) -> Scene:
        scenes.append(Scene(**options))  # type: ignore[arg-type]
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()
