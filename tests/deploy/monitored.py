"""A gateway under load and with faults, and the Prometheus that scrapes it: what queries are tried on.

The scrape is as the chart's ServiceMonitor makes it: with the operator's labels, which must not hide the gateway's own.
"""

import json
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from gateway.protocol.records import SUBPROTOCOL, RecordType, encode_record, parse_record
from tests.helm.chart import NAMESPACE, render
from tests.support.backends import serve, tcp_echo
from tests.support.certificates import Certificates
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess, route
from tests.support.network import free_port
from tests.support.peers.raw_client import RawClient
from tests.support.peers.wire import frame
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY, need

RULES: Final = REPOSITORY / "deploy" / "prometheus" / "rules.yaml"
SECOND_RELEASE: Final = "blue-post"
"""The full name of another release, which has an override, in the same namespace."""
POD: Final = "kakitome-6d5f8c7b9d-x2x7p"
ALLOWED_ORIGIN: Final = "https://app.example.com"
PATIENCE_SECONDS: Final = 90.0
PACE_SECONDS: Final = 0.05
"""Between two rounds of traffic."""
STALLED_SECONDS: Final = 0.5
"""Nothing taken for so long: the gateway has stopped reading."""

BINARY, CLOSE = 2, 8

Sample = Mapping[str, Any]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A Prometheus that runs, asked over its HTTP API."""

    port: int

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
            return json.load(response)["data"]

    def query(self, expression: str) -> list[Sample]:
        """The samples that an expression gives now, those that are not a number left out."""
        return [sample for sample in self.ask("query", query=expression)["result"] if sample["value"][1] != "NaN"]

    def wait_for_data(self, expression: str) -> list[Sample]:
        """Asks until there is a sample; fails after PATIENCE_SECONDS."""
        return self.wait_for(lambda: self.query(expression), f"data for {expression}")

    @staticmethod
    def wait_for(look: Callable[[], Found | None], wanted: str) -> Found:
        """Looks until it finds something, and returns that; fails after PATIENCE_SECONDS."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := look()):
            assert time.monotonic() < deadline, f"no {wanted} within {PATIENCE_SECONDS:g} s"
            time.sleep(0.1)  # there is nothing to wait on: Prometheus tells only those who ask
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitored:
    """What queries are tried on."""

    prometheus: Prometheus
    gateway: GatewayProcess


@contextmanager
def monitored(folder: Path) -> Iterator[Monitored]:
    """Runs it all, with its files in `folder`. While the block lasts, the faults stay and the traffic goes on."""
    with ExitStack() as stack:
        silent = stack.enter_context(_Silent().run())
        ports = {
            "echo": stack.enter_context(tcp_echo()),
            "stalled": stack.enter_context(serve(silent.converse)),
            "records": _echo_on_records(stack),
            "down": free_port(),
            "half": free_port(),
        }
        certificates = Certificates.issue(folder, not_after=datetime.now(UTC) + timedelta(days=1))
        gateway = stack.enter_context(GatewayProcess(_config(ports, certificates), covered=False))
        prometheus = _start_prometheus(stack, folder, gateway)
        # What Prometheus sees for the first time has not risen for it: the faults come after.
        prometheus.wait_for_data("kakitome_unknown_messages_total")
        _fill(stack, gateway)
        stack.enter_context(_traffic(gateway, certificates))
        _make_faults(stack, gateway, silent)
        yield Monitored(prometheus=prometheus, gateway=gateway)


# --- the gateway and what it stands before ------------------------------------------------------------------------


class _Silent:
    """A backend that reads nothing, and resets one connection when told to."""

    def __init__(self) -> None:
        self.reset = threading.Event()
        self._over = False

    @contextmanager
    def run(self) -> Iterator["_Silent"]:
        yield self
        self._over = True
        self.reset.set()

    def converse(self, connection: socket.socket) -> None:
        self.reset.wait()
        if not self._over:
            self.reset.clear()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


def _echo_on_records(stack: ExitStack) -> int:
    service = ServiceProcess([sys.executable, "-m", "gateway.backend.echo"], started=r"listening on \S+:(\d+)")
    stack.enter_context(service)
    assert service.started_match is not None
    return int(service.started_match[1])


def _config(ports: Mapping[str, int], certificates: Certificates) -> dict[str, Any]:
    endpoints = {name: f"tcp://127.0.0.1:{port}" for name, port in ports.items()}
    health = {"interval": "250ms", "timeout": "200ms"}
    # Clients that are held for as long as the tests last answer no ping.
    held: dict[str, Any] = {"timeouts": {"keepalive": None}}
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    return {
        "listeners": [{"bind": LOOPBACK_ANY_PORT}, {"bind": LOOPBACK_ANY_PORT, "tls": tls}],
        "routes": [
            route("echo", "/echo", endpoints["echo"], origins=[ALLOWED_ORIGIN]),
            route("full", "/full", endpoints["echo"], limits={"connections": 2}, **held),
            route("shared", "/shared", endpoints["echo"], limits={"connections_per_address": 1}, **held),
            route("records", "/records", endpoints["records"], framing="records"),
            route("stalled", "/stalled", endpoints["stalled"], **held),
            route("down", "/down", endpoints["down"], backend={"health": health}),
            # One endpoint of two answers.
            route(
                "half",
                "/half",
                endpoints["half"],
                backend={"endpoints": [endpoints["half"], endpoints["echo"]], "health": health},
            ),
        ],
        "timeouts": {"drain": "1s"},
        "metrics": {"exemplars": True},
    }


# --- Prometheus ---------------------------------------------------------------------------------------------------


def _start_prometheus(stack: ExitStack, folder: Path, gateway: GatewayProcess) -> Prometheus:
    """Scrapes every other second, by the chart's monitors and with the rules of both: the gateway and a second one of
    its release that is not there, and a second release in the same namespace of which nothing is."""
    config = {"routes": gateway.config["routes"]}
    rule_files, scrapes = [], []
    here, gone = {"pod": POD}, {"pod": "kakitome-6d5f8c7b9d-gone1"}
    for release, values, targets in (
        ("kakitome", {}, {gateway.admin_address: here, f"127.0.0.1:{free_port()}": gone}),
        ("blue", {"nameOverride": "post"}, {f"127.0.0.1:{free_port()}": gone}),
    ):
        enabled = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
        fullname = release if not values else SECOND_RELEASE
        objects = render({**values, **enabled, "config": config}, name=release, fullname=fullname).objects
        monitor = objects["ServiceMonitor"]["spec"]["endpoints"][0]
        labels = {
            "namespace": NAMESPACE,
            "service": f"{fullname}-admin",
            "container": "kakitome",
            "endpoint": monitor["port"],
        }
        scrapes.append(
            {
                "job_name": f"serviceMonitor/{NAMESPACE}/{fullname}/0",  # as the operator calls it
                "honor_labels": monitor.get("honorLabels", False),
                "relabel_configs": [_snake_case(relabeling) for relabeling in monitor["relabelings"]],
                "static_configs": [{"targets": [target], "labels": labels | pod} for target, pod in targets.items()],
            }
        )
        rules = folder / f"{fullname}-rules.yaml"
        rules.write_text(yaml.safe_dump(objects["PrometheusRule"]["spec"]))
        rule_files.append(str(rules))
    document = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "rule_files": rule_files,
        "scrape_configs": scrapes,
    }
    config_file = folder / "prometheus.yml"
    config_file.write_text(yaml.safe_dump(document))
    port = free_port()
    argv = [need("prometheus", "apt-get install prometheus"), f"--config.file={config_file}"]
    argv += [f"--storage.tsdb.path={folder / 'series'}", f"--web.listen-address=127.0.0.1:{port}"]
    argv += ["--enable-feature=exemplar-storage"]
    stack.enter_context(ServiceProcess(argv, started="Server is ready to receive web requests"))
    return Prometheus(port=port)


def _snake_case(relabeling: Mapping[str, Any]) -> dict[str, Any]:
    """As Prometheus spells what the operator has in camel case."""
    return {re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), key): value for key, value in relabeling.items()}


# --- load and faults ----------------------------------------------------------------------------------------------


@contextmanager
def _traffic(gateway: GatewayProcess, certificates: Certificates) -> Iterator[None]:
    """Rounds of it until the block ends; raises what went wrong in one."""
    over = threading.Event()

    def rounds() -> None:
        while not over.is_set():
            _converse(gateway.url("/echo"))
            _converse(gateway.url("/echo", listener=1, host="localhost"), tls=certificates.client_context())
            _try_in_vain(gateway.url("/echo"), "https://elsewhere.example")
            for path in ("/down", "/full", "/shared"):
                _try_in_vain(gateway.url(path), ALLOWED_ORIGIN)
            with _Session(gateway) as first, _Session(gateway, first.token) as second, _Session(gateway, "x" * 32):
                assert second.token == first.token
                second.exchange()
            over.wait(PACE_SECONDS)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(rounds)
        try:
            yield
        finally:
            over.set()
        running.result()


def _try_in_vain(url: str, origin: str) -> None:
    with suppress(ConnectionError), RawClient(url, headers={"Origin": origin}):
        raise AssertionError(f"{url} took a client that it was to refuse")


def _converse(url: str, **options: Any) -> None:
    with RawClient(url, headers={"Origin": ALLOWED_ORIGIN}, **options) as client:
        for _ in range(5):
            client.send(BINARY, b"something to send back")
            client.receive_message()
        client.send(CLOSE, (1000).to_bytes(2))
        client.receive_close()


class _Session(RawClient):
    """A client that speaks records; at its end it vanishes."""

    def __init__(self, gateway: GatewayProcess, token: str | None = None) -> None:
        super().__init__(gateway.url("/records"), headers={"Sec-WebSocket-Protocol": SUBPROTOCOL})
        self.send(BINARY, encode_record(RecordType.OPEN, 0, 0, json.dumps({"session": token}).encode()))
        kind, _, _, body = parse_record(self.receive_message())
        assert kind == RecordType.OPENED
        self.token: str = json.loads(body)["session"]

    def exchange(self) -> None:
        """Sends one message, takes it back, and says so."""
        self.send(BINARY, encode_record(RecordType.DATA, 0, 1, b"something to send back"))
        while parse_record(self.receive_message())[0] != RecordType.DATA:
            pass
        self.send(BINARY, encode_record(RecordType.ACK, 4, 1))


def _fill(stack: ExitStack, gateway: GatewayProcess) -> None:
    """Takes all places of a route and all of this address on another, before the traffic asks for them in vain."""
    for path in ("/full", "/full", "/shared"):
        stack.enter_context(RawClient(gateway.url(path)))


def _make_faults(stack: ExitStack, gateway: GatewayProcess, silent: _Silent) -> None:
    """Messages that nobody takes, a connection reset upon them, a configuration with faults."""
    with RawClient(gateway.url("/stalled")) as client:
        _offer_until_stalled(client)
        silent.reset.set()
        gateway.wait_for_event("session_ended", route="stalled")
    _offer_until_stalled(stack.enter_context(RawClient(gateway.url("/stalled"))))
    gateway.write_config_text("routes: [{name: echo, bakend: {}}]")
    gateway.hang_up()
    gateway.wait_for_event("config_rejected")


def _offer_until_stalled(client: RawClient) -> None:
    client.sock.settimeout(STALLED_SECONDS)
    data = frame(BINARY, bytes(4096))
    with suppress(TimeoutError):
        while True:
            client.sock.sendall(data)
