"""Thousands of connections that never say anything, accepted together."""

import pytest

from tests.attacks.scene import Scene


@pytest.mark.parametrize("addresses", [1, 100])
def test_silent_connections(addresses: int) -> None:
    with Scene() as scene:
        scene.run("silent_connections", addresses=addresses).check()
