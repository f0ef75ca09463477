"""Gateways with a door for each kind of handshake: with TLS and without, asking who comes and not asking.

A gateway has the doors that it knows: an older commit of ours does not ask anybody who he is, others do no more than
TLS. What a door wants (a header, a certificate) goes with it.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trustme
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from tests.benchmarks.contenders import NGINX_CONFIG, Contender, serve_program, serve_websocat
from tests.support.certificates import Certificates
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess, route
from tests.support.network import free_port
from tests.support.tools import find_tool

ISSUER: Final = "https://login.example.com"
AUDIENCE: Final = "bench"
ALGORITHM: Final = "ES256"
TOKEN: Final = "a-token-that-stands-in-the-configuration-0123456789"
JWT_SECONDS: Final = 86_400

MANY: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where one kind of connection comes in, and with what."""

    port: int
    path: str = "/"
    headers: tuple[str, ...] = ()
    """Whole lines."""
    tls: bool = False
    certificate: tuple[Path, Path] | None = None
    """The client's own, and its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A gateway that is up: its doors by name, and the process to measure."""

    pid: int
    doors: Mapping[str, Door] = field(repr=False)


OpenHouse = Callable[[int, int, Path], AbstractContextManager[House]]
"""(backend port, core to pin the gateway to, folder for its files) -> the gateway, running while the context lasts."""


def known_keys(tree: Path) -> frozenset[str]:
    """The keys of the configuration that a tree of ours knows: `handshakes`, `routes[].authentication`."""
    code = (
        "from gateway.config import Config, Route\n"
        "print(*Config.model_fields, *(f'routes[].{name}' for name in Route.model_fields))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(done.stdout.split())


def open_kakitome(*, tree: Path, codec: str | None = None) -> OpenHouse:
    """Kakitome with all doors that the tree knows; only the limits that a benchmark would run into are raised."""

    @contextmanager
    def opened(backend_port: int, core: int, folder: Path) -> Iterator[House]:
        keys = known_keys(tree)
        certificates = Certificates.issue(folder)
        own = _issue_for_client(certificates.authority, folder)
        limits = {"connections": MANY, "connections_per_address": MANY}
        backend = f"tcp://127.0.0.1:{backend_port}"
        routes = [route("plain", "/", backend, limits=limits)]
        headers: dict[str, str] = {}
        if "routes[].authentication" in keys:
            jwt_file, headers["jwt"] = _issue_jwt(folder)
            headers["token"] = TOKEN
            routes += [
                route(name, f"/{name}", backend, limits=limits, authentication={"methods": [method]})
                for name, method in _methods(jwt_file).items()
            ]
        tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
        config: dict[str, Any] = {
            "listeners": [
                {"bind": LOOPBACK_ANY_PORT},
                {"bind": LOOPBACK_ANY_PORT, "tls": tls},
                {"bind": LOOPBACK_ANY_PORT, "tls": {**tls, "client_ca": str(certificates.authority_file)}},
            ],
            "routes": routes,
            "log": {"format": "json", "level": "info"},
        }
        if "handshakes" in keys:
            config["handshakes"] = {"per_second": MANY}
        with GatewayProcess(config, codec=codec, cores=[core], covered=False, tree=tree) as process:
            plain, over_tls, with_certificate = (process.port(listener) for listener in range(3))
            doors = {"plain": Door(port=plain), "tls": Door(port=over_tls, tls=True)}
            for name, credential in headers.items():
                doors[name] = Door(port=plain, path=f"/{name}", headers=(f"Authorization: Bearer {credential}",))
            if headers:
                doors["mtls"] = Door(port=with_certificate, path="/mtls", tls=True, certificate=own)
            yield House(pid=process.pid, doors=doors)

    return opened


def _methods(jwt_file: Path) -> dict[str, dict[str, Any]]:
    issuer = {"issuer": ISSUER, "keys": str(jwt_file)}
    return {
        "token": {"token": {"tokens": [{"subject": "bench", "token": TOKEN}]}},
        "jwt": {"jwt": {"issuers": [issuer], "audiences": [AUDIENCE], "algorithms": [ALGORITHM]}},
        "mtls": {"mtls": {}},
    }


def _issue_jwt(folder: Path) -> tuple[Path, str]:
    """A file of public keys, and a token that one of them is good for."""
    key = ECKey.generate_key("P-256", {"kid": "bench"})
    file = folder / "keys.json"
    file.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": "bench", "aud": AUDIENCE, "iat": now, "exp": now + JWT_SECONDS}
    return file, jwt.encode({"alg": ALGORITHM, "kid": "bench"}, claims, key, algorithms=[ALGORITHM])


def _issue_for_client(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    issued = authority.issue_cert("client@bench.example")
    certificate, key = folder / "client.crt", folder / "client.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return certificate, key


@contextmanager
def open_nginx(backend_port: int, core: int, folder: Path) -> Iterator[House]:
    """nginx, which passes the handshake on to a WebSocket backend; with a certificate of the same kind as ours."""
    certificates = Certificates.issue(folder)
    plain, over_tls = free_port(), free_port()
    tls = (
        f"listen 127.0.0.1:{over_tls} ssl backlog=4096;\n"
        f"ssl_certificate {certificates.certificate}; ssl_certificate_key {certificates.key};\n"
        "ssl_protocols TLSv1.2 TLSv1.3;"
    )
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    config = folder / "nginx.conf"
    text = NGINX_CONFIG.format(folder=folder, port=plain, backend_port=backend_port, files=files)
    config.write_text(text.replace("location /", f"{tls}\nlocation /", 1))
    argv: list[str | Path] = [find_tool("nginx") or "nginx", "-c", config, "-e", "stderr", "-p", folder]
    with serve_program(argv, plain, core) as running:
        yield House(pid=running.pid, doors={"plain": Door(port=plain), "tls": Door(port=over_tls, tls=True)})


@contextmanager
def open_websocat(backend_port: int, core: int, folder: Path) -> Iterator[House]:
    """websocat, without TLS."""
    with serve_websocat(backend_port, core, folder) as running:
        yield House(pid=running.pid, doors={"plain": Door(port=running.port)})


def house_of(contender: Contender) -> OpenHouse | None:
    """The contender with its doors; None for one whose handshakes are not measured."""
    if contender.name in ("kakitome", "kakitome-interpreted"):
        return open_kakitome(tree=contender.tree)
    return {"nginx": open_nginx, "websocat": open_websocat}.get(contender.name)
