"""TLS in the pump: bytes that epoll cannot see, and ends that are none."""

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from tests.relay.endpoints import Pair, Scene, endpoint_on
from tests.relay.sockets import tls_pair


@pytest.fixture
def scene(pair: Pair) -> Iterator[Scene]:
    with endpoint_on(pair) as scene:
        yield scene


@pytest.mark.parametrize("pair", [tls_pair])
def test_decrypted_bytes_that_epoll_cannot_see_are_read(scene: Scene) -> None:
    payload = bytes(range(256)) * 4096
    writer = threading.Thread(target=scene.peer.sendall, args=(payload,))
    writer.start()
    scene.endpoint.resume()
    scene.turns(lambda: len(scene.owner.data) == len(payload))
    writer.join()
    assert scene.owner.data == payload


@pytest.mark.parametrize("pair", [tls_pair])
def test_a_tls_stream_that_ends_without_close_notify_is_broken_behind_its_bytes(scene: Scene) -> None:
    assert isinstance(scene.peer, ssl.SSLSocket)
    scene.peer.sendall(b"cut off he")
    raw = scene.peer.detach()
    socket.close(raw)
    scene.endpoint.resume()
    scene.turns(lambda: bool(scene.owner.news))
    assert (bytes(scene.owner.data), scene.owner.news) == (b"cut off he", ["broken"])
