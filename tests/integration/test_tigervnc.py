"""A real TigerVNC behind the gateway, set up as docs/migrating-from-websockify.md says: nobody is ever locked out.

TigerVNC counts each connection that ends without a login against its sender, which is the gateway, and answers "Too
many security failures" after five. `make soak-vnc` lets this run for ten minutes.
"""

import os
import time
from typing import Any, Final

import pytest

from tests.support.gateway import GatewayProcess, route
from tests.support.network import free_port
from tests.support.peers.raw_client import RawClient
from tests.support.services import vnc_server

BINARY: Final = 2
SECONDS: Final = float(os.environ.get("KAKITOME_SOAK_SECONDS", "8"))
TOO_MANY: Final = b"Too many security failures"


def log_in(client: RawClient) -> bytes:
    """Speaks RFB (RFC 6143 section 7.1) until the server lets it in, or says why not: b"" or its reason."""
    heard = b""

    def take(size: int) -> bytes:
        nonlocal heard
        while len(heard) < size:
            heard += client.receive_message()
        taken, heard = heard[:size], heard[size:]
        return taken

    version = take(12)
    assert version.startswith(b"RFB 003.")
    if version == b"RFB 003.003\n":  # what TigerVNC says to those it refuses, whatever they speak
        assert take(4) == bytes(4)
        return take(int.from_bytes(take(4)))
    client.send(BINARY, version)
    kinds = take(take(1)[0])
    if not kinds:
        return take(int.from_bytes(take(4)))
    client.send(BINARY, b"\x01")  # None: no password
    assert 1 in kinds
    assert take(4) == bytes(4), "the security result"
    return b""


def vnc_route(port: int, **backend: Any) -> dict[str, Any]:
    """As documented: nothing about health but what the test is about."""
    described = route("vnc", "/websockify", f"tcp://127.0.0.1:{port}", subprotocols=["binary"])
    described["backend"] = {"endpoints": described["backend"]["endpoints"], **backend}
    return described


@pytest.mark.patience(SECONDS + 120)
def test_tigervnc_never_locks_the_gateway_out() -> None:
    port = free_port()
    with vnc_server(port), GatewayProcess({"routes": [vnc_route(port)]}, covered=False) as gateway:
        # What is not known is not said: no probe has been made.
        assert "kakitome_backend_up{" not in gateway.ask_admin("/metrics").body
        deadline, logins = time.monotonic() + SECONDS, 0
        while time.monotonic() < deadline:
            # Seldom, because a login that succeeds is forgiven all that was before: as users do, who come and stay.
            time.sleep(min(150.0, SECONDS / 2))
            with RawClient(gateway.url("/websockify")) as client:
                assert log_in(client) == b""
            logins += 1
        assert logins >= 2
        assert gateway.metrics().value("kakitome_backend_dials_total", outcome="connected") == logins
        assert gateway.metrics().value("kakitome_backend_up", route="vnc") == 1


def test_a_tigervnc_that_comes_up_late_is_asked_until_it_answers_and_then_no_more() -> None:
    port = free_port()
    with GatewayProcess({"routes": [vnc_route(port)]}, covered=False) as gateway:
        with pytest.raises(ConnectionError, match="502"):
            RawClient(gateway.url("/websockify"))
        assert gateway.metrics().value("kakitome_backend_up", route="vnc") == 0
        with vnc_server(port):
            gateway.wait_for_event("backend_up", route="vnc")
            time.sleep(SECONDS / 4)
            with RawClient(gateway.url("/websockify")) as client:
                assert log_in(client) == b""


def test_checks_that_were_asked_for_lock_everybody_out_which_is_why_they_are_not_the_default() -> None:
    port = free_port()
    checked = vnc_route(port, health={"interval": "50ms"})
    with vnc_server(port), GatewayProcess({"routes": [checked]}, covered=False) as gateway:
        deadline, reason = time.monotonic() + 30, b""
        while not reason and time.monotonic() < deadline:
            time.sleep(0.5)
            with RawClient(gateway.url("/websockify")) as client:
                reason = log_in(client)
        assert reason == TOO_MANY
