"""Request heads that come a byte a second."""

import pytest

from tests.attacks.scene import Scene


@pytest.mark.parametrize("addresses", [1, 100])
def test_slow_heads(addresses: int) -> None:
    with Scene() as scene:
        scene.run("slow_heads", addresses=addresses).check(ends=True)
