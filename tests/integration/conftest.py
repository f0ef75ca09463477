"""Fixtures of the integration tests: certificates, and the scheme that clients come in by."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.certificates import Certificates
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A running gateway and the listener that this test's clients use: ws, or wss with a certificate for localhost."""

    gateway: GatewayProcess
    scheme: str
    certificates: Certificates

    def url(self, path: str) -> str:
        return self.gateway.url(path, listener=self._listener, host="localhost")

    def http_url(self, path: str) -> str:
        return self.gateway.http_url(path, listener=self._listener, host="localhost")

    @property
    def port(self) -> int:
        return self.gateway.port(self._listener)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What a client passes as its TLS context."""
        return self.certificates.client_context() if self.scheme == "wss" else None

    @property
    def _listener(self) -> int:
        return 0 if self.scheme == "ws" else 1


OpenEdge = Callable[[list[dict[str, Any]]], AbstractContextManager[Edge]]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["ws", "wss"])
def scheme(request: pytest.FixtureRequest) -> str:
    parameter: str = request.param
    return parameter


@pytest.fixture
def open_edge(scheme: str, certificates: Certificates) -> OpenEdge:
    """Runs a gateway with these routes, listening for ws and for wss; clients use the one that the test is about."""

    @contextmanager
    def run(routes: list[dict[str, Any]]) -> Iterator[Edge]:
        tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
        listeners: list[Mapping[str, Any]] = [{"bind": LOOPBACK_ANY_PORT}, {"bind": LOOPBACK_ANY_PORT, "tls": tls}]
        with GatewayProcess({"listeners": listeners, "routes": routes}) as gateway:
            yield Edge(gateway=gateway, scheme=scheme, certificates=certificates)

    return run
