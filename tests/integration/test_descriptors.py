"""Out of descriptors: clients are told so, the backend is not blamed, and the operator can still look in."""

import re
import socket
from contextlib import ExitStack

import pytest

from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.process import ServiceProcess
from tests.support.tools import need

LIMIT = 120


class Limited(GatewayProcess):
    """A gateway that may have few descriptors open."""

    def _service(self) -> ServiceProcess:
        service = super()._service()
        service.argv = ["prlimit", f"--nofile={LIMIT}:{LIMIT}", *service.argv]
        return service


def test_a_gateway_without_descriptors_says_so_and_holds_nothing_against_its_backends() -> None:
    need("prlimit", "apt-get install util-linux")
    checked = {"health": {"interval": "100ms", "timeout": "1s"}}
    with tcp_echo() as port, ExitStack() as stack:
        config = {
            "routes": [route("echo", "/", f"tcp://127.0.0.1:{port}", backend=checked)],
            "admin": {"bind": "127.0.0.1:0", "readiness": "any_route"},
            "timeouts": {"handshake": "5m"},
        }
        gateway = stack.enter_context(Limited(config, covered=False))
        clients = ExitStack()
        stack.callback(clients.close)

        # A session takes two descriptors. The refusal is for the client that finds only one left; where none is left,
        # and a check of the backend's health may have just one more, it is not taken in at all. Then one is given back.
        spare = [stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port()))) for _ in range(4)]

        def fill() -> None:
            for _ in range(LIMIT):
                try:
                    clients.enter_context(RawClient(gateway.url("/")))
                except ConnectionError as error:
                    if "HTTP/1.1" in str(error):  # an answer, and not the connection's end
                        raise
                    idle = spare.pop()
                    idle.shutdown(socket.SHUT_WR)
                    assert idle.recv(1) == b""  # the gateway has closed it

        with pytest.raises(ConnectionError, match="503"):
            fill()
        told = gateway.wait_for_event("gateway_exhausted", route="echo")
        assert "Too many open files" in told["problem"]
        assert gateway.ask_admin("/readyz").status == 200
        assert gateway.ask_admin("/healthz").status == 200
        metrics = gateway.metrics()
        assert metrics.value("kakitome_backend_up", route="echo") == 1
        dials = {outcome: metrics.value("kakitome_backend_dials_total", outcome=outcome) for outcome in OUTCOMES}
        assert dials == {"connected": metrics.value("kakitome_connections", route="echo"), "failed": 0, "refused": 0}
        assert metrics.value("kakitome_refusals_total", reason="exhausted") == 1
        budget = next(event for event in gateway.events if event["event"] == "descriptors")
        assert (budget["limit"], budget["kept_back"]) == (LIMIT, LIMIT // 8)
        assert not [event for event in gateway.events if re.search("backend_down|dial_failed", event["event"])]
        clients.close()
        while True:  # until the gateway has let go of some
            try:
                stack.enter_context(RawClient(gateway.url("/")))
            except ConnectionError:
                continue
            break


OUTCOMES = ("connected", "failed", "refused")
