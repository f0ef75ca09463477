"""Thousands of parked sessions in a real gateway: what they take, and that the limit holds under a flood."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from gateway.protocol.records import RecordType, encode_record, parse_record
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.peers.wire import frame

SESSIONS: Final = int(os.environ.get("KAKITOME_PARKED_SESSIONS", "2000"))
"""`make long` parks ten thousand."""
FLOOD: Final = 300
WARM_UP: Final = 200

MAX_SESSION_BYTES: Final = 16_000
"""Of the gateway's memory, for a parked session with an empty outbox; kernel buffers of its sockets are not in it."""


@contextmanager
def silent_backend() -> Iterator[int]:
    """Accepts and says nothing; its port."""
    connections: list[socket.socket] = []

    def accept() -> None:
        try:
            while True:
                connections.append(listener.accept()[0])
        except OSError:
            pass

    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


def open_session(url: str, token: str | None = None) -> dict[str, Any]:
    """Opens or resumes a session and goes without a word; what OPENED said."""
    with RawClient(url, headers={"Sec-WebSocket-Protocol": "kakitome.v1"}) as client:
        body = json.dumps({"session": token}).encode()
        client.sock.sendall(frame(2, encode_record(RecordType.OPEN, 0, 0, body)))
        record_type, _, _, answer = parse_record(client.receive_message())
        assert record_type == RecordType.OPENED
        opened: dict[str, Any] = json.loads(answer)
        return opened


def test_thousands_of_parked_sessions_are_held_in_little_memory_and_a_flood_ends_the_oldest() -> None:
    with silent_backend() as port:
        config = {
            "routes": [route("park", "/", f"tcp://127.0.0.1:{port}", delivery={"grace": "1h"})],
            "sessions": {"parked": SESSIONS, "parked_per_holder": None, "parked_bytes": "1GiB", "ended": 2 * FLOOD},
        }
        with GatewayProcess(config, covered=False) as gateway:
            url = gateway.url()
            tokens = [open_session(url)["session"] for _ in range(WARM_UP)]
            before = gateway.resident_bytes()
            tokens += [open_session(url)["session"] for _ in range(SESSIONS - WARM_UP)]
            after = gateway.resident_bytes()
            assert parked(gateway) >= SESSIONS - 1  # the last one may not have been missed yet
            each = (after - before) / (SESSIONS - WARM_UP)
            assert each < MAX_SESSION_BYTES, f"{each:.0f} bytes for a parked session"

            for _ in range(FLOOD):
                open_session(url)
            assert parked(gateway) <= SESSIONS
            for token, resumed in ((tokens[0], False), (tokens[-1], True), (tokens[SESSIONS // 2], True)):
                opened = open_session(url, token)
                assert opened["resumed"] is resumed
                assert (opened["report"] is None) is resumed


def parked(gateway: GatewayProcess) -> float:
    return gateway.metrics().value("kakitome_sessions", state="parked")
