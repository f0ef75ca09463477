"""A client that is not read, because its backend takes nothing, and goes: its session does not stay for ever."""

from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from tests.integration.test_endings import BINARY, Backend, reset
from tests.support.certificates import Certificates
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient

CHUNK: Final = 64 * 1024


def flood(client: RawClient) -> None:
    """Sends until the gateway reads no more."""
    client.sock.settimeout(1.0)
    with suppress(TimeoutError):
        while True:
            client.send(BINARY, bytes(CHUNK))


@pytest.mark.parametrize(
    ("scheme", "framing", "is_reset"),
    [("ws", "stream", False), ("ws", "length_prefixed", True), ("wss", "lines", False), ("wss", "stream", True)],
)
def test_a_plain_client_that_goes_is_noticed(scheme: str, framing: str, is_reset: bool, tmp_path: Path) -> None:
    certificates = Certificates.issue(tmp_path)
    listener: dict[str, object] = {"bind": "127.0.0.1:0"}
    if scheme == "wss":
        listener["tls"] = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    backend = Backend()
    with ExitStack() as stack:
        port = stack.enter_context(backend.run())
        routes = [
            route(
                "it", "/", f"tcp://127.0.0.1:{port}", framing=framing, timeouts={"close": "200ms", "keepalive": "500ms"}
            )
        ]
        gateway = stack.enter_context(GatewayProcess({"listeners": [listener], "routes": routes}))
        tls = certificates.client_context() if scheme == "wss" else None
        client = stack.enter_context(RawClient(gateway.url("/"), tls=tls))
        backend.connection()  # and it reads nothing
        flood(client)
        if is_reset:
            reset(client.sock)
        else:
            client.sock.close()
        ended = gateway.wait_for_event("session_ended")
        assert (ended["by"], ended["code"]) == ("client", 1006)
        upstream = ended["upstream"]
        told = [(1, upstream["settled"]), *filter(None, (upstream["unknown"], upstream["never_forwarded"]))]
        for (_, before), (first, _) in pairwise(told):
            assert first == before + 1, "one span follows on the other"
        # What was read on behind the window was not accepted, and is told of all the same.
        assert told[-1][1] >= upstream["messages"], "all that was accepted is accounted for"
        assert gateway.metrics().value("kakitome_connections", route="it") == 0
