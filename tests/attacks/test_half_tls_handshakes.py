"""Half a ClientHello, and then nothing: the TLS handshakes that are under way take memory."""

import pytest

from tests.attacks.scene import Scene


@pytest.mark.parametrize("addresses", [1, 100])
def test_half_tls_handshakes(addresses: int) -> None:
    with Scene() as scene:
        scene.run("half_tls_handshakes", addresses=addresses).check(ends=True)
