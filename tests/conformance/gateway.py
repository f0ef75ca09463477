"""The gateway as Autobahn sees it: an echo through a records route, compression on, room for 16 MiB messages."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess, route
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY


@contextmanager
def serve_echo(codec: str, *, tls: bool = False) -> Iterator[str]:
    """Runs the gateway and the echo backend; gives the WebSocket URL."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conformance-")))
        backend = stack.enter_context(
            ServiceProcess(
                [sys.executable, "-m", "gateway.backend.echo"],
                name="echo backend",
                started=r"listening on (\S+)",
                environment={
                    "PYTHONPATH": str(REPOSITORY),
                    "COVERAGE_PROCESS_CONFIG": "",
                    "COVERAGE_PROCESS_START": "",
                },
            )
        )
        assert backend.started_match is not None
        listener: dict[str, object] = {"bind": LOOPBACK_ANY_PORT}
        if tls:
            certificates = Certificates.issue(folder)
            listener["tls"] = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
        config = {
            "listeners": [listener],
            "routes": [
                route(
                    "echo",
                    "/",
                    f"tcp://{backend.started_match[1]}",
                    framing="records",
                    limits={"message_bytes": "32MiB", "connections_per_address": None},
                    compression={"enabled": True},
                )
            ],
        }
        gateway = stack.enter_context(GatewayProcess(config, codec=codec, covered=False))
        yield gateway.url("/")
