"""Thousands of connections that never say anything, accepted together: their deadlines fall together, too."""

import pytest

from tests.attacks.scene import Scene


@pytest.mark.parametrize("addresses", [1, 100])
def test_silent_connections(addresses: int) -> None:
    """The deadline is shortened so that it falls while the honest ones are there; `make attack` waits for it."""
    with Scene(config={"timeouts": {"handshake": "1s"}}) as scene:
        scene.run("silent_connections", addresses=addresses).check(ends=True)
