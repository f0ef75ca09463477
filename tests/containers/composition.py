"""Proof of docker-compose.yml: its services come up healthy and in order, and Prometheus holds the metrics."""

import json
import os
import ssl
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.containers.engine import build, compose, docker, drain_seconds, inspect, published, python, wait_until
from tests.containers.talk import Crowd, converse, fetch
from tests.support.tools import REPOSITORY

HERE: Final = Path(__file__).parent
OVERRIDE: Final = HERE / "compose.override.yml"
PORTS: Final = ("KAKITOME_WS_PORT", "KAKITOME_WSS_PORT", "KAKITOME_ADMIN_PORT", "PROMETHEUS_PORT")
CONNECTIONS: Final = 20
DRAIN_SECONDS: Final = 25
"""As deploy/compose/kakitome.yaml has it."""


def prove_composition(tag: str, base: str) -> dict[str, Any]:
    """Brings all up but Grafana, on free ports; returns what was measured. The image `tag` must be there."""
    prometheus_image = f"{tag}-prometheus"
    build(prometheus_image, HERE / "prometheus.Dockerfile", HERE, "--build-arg", f"BASE={base}")
    composition = Composition(tag, prometheus_image)
    try:
        return composition.prove()
    finally:
        composition.compose("down", "--volumes", "--timeout", "5")


class Composition:
    """One run of docker-compose.yml under a name of its own."""

    def __init__(self, tag: str, prometheus_image: str) -> None:
        self._project = f"kakitome-test-{os.getpid()}"
        self._environment = {
            "KAKITOME_TAG": tag.partition(":")[2],
            "PROMETHEUS_IMAGE": prometheus_image,
            **dict.fromkeys(PORTS, "0"),  # the engine chooses free ones
        }

    def compose(self, *arguments: str) -> str:
        files = ["--file", str(REPOSITORY / "docker-compose.yml"), "--file", str(OVERRIDE)]
        return compose("--project-name", self._project, *files, *arguments, environment=self._environment)

    def container(self, service: str) -> str:
        """The id of a service's container, also of one that has ended."""
        return self.compose("ps", "--all", "--quiet", service)

    def prove(self) -> dict[str, Any]:
        started = time.monotonic()
        self.compose("up", "--detach", "--no-build", "--wait", "backends", "gateway", "prometheus")
        up_seconds = time.monotonic() - started
        self._check_order()
        gateway = self.container("gateway")
        self._check_gateway(gateway)
        self._check_prometheus()
        self._check_certificate_is_kept(gateway)
        return {"up_seconds": round(up_seconds, 1), "stop_seconds": round(self._stop(gateway), 1)}

    def _check_order(self) -> None:
        """The certificate was made before the gateway began, and the gateway was healthy before Prometheus began."""
        states = {
            service: inspect("container", self.container(service))["State"]
            for service in ("certificate", "backends", "gateway", "prometheus")
        }
        assert states["certificate"]["ExitCode"] == 0, states
        assert states["certificate"]["FinishedAt"] < states["gateway"]["StartedAt"], states
        assert states["backends"]["StartedAt"] < states["gateway"]["StartedAt"] < states["prometheus"]["StartedAt"]
        assert {states[service]["Health"]["Status"] for service in ("backends", "gateway", "prometheus")} == {"healthy"}

    def _check_gateway(self, gateway: str) -> None:
        http, https = published(gateway, 8080), published(gateway, 8443)
        tls = self._trust(gateway)
        page = fetch(f"http://127.0.0.1:{http}/")
        assert "<title>" in page
        assert fetch(f"https://localhost:{https}/", tls) == page
        converse(f"ws://127.0.0.1:{http}")
        converse(f"wss://localhost:{https}", tls)
        assert fetch(f"http://127.0.0.1:{published(gateway, 9090)}/healthz") == "ok\n"

    def _trust(self, gateway: str) -> ssl.SSLContext:
        """A context that trusts the authority made at the start, and nothing else."""
        authority = python(gateway, "print(open('/var/lib/kakitome/tls/ca.crt').read())")
        return ssl.create_default_context(cadata=authority)

    def _check_prometheus(self) -> None:
        """It scrapes the gateway, has the conversations counted, and evaluates every rule without fault."""
        url = f"http://127.0.0.1:{published(self.container('prometheus'), 9090)}/api/v1"

        def query(expression: str) -> list[Any]:
            answer = json.loads(fetch(f"{url}/query?{urlencode({'query': expression})}"))
            result: list[Any] = answer["data"]["result"]
            return result

        wait_until(lambda: query('up{job="kakitome"} == 1') or None, "Prometheus scrapes the gateway")
        counted = 'kakitome_messages_total{job="kakitome",route="hello",direction="upstream"} >= 6'
        wait_until(lambda: query(counted) or None, "Prometheus holds the gateway's messages")

        def rules() -> list[Any] | None:
            groups = json.loads(fetch(f"{url}/rules"))["data"]["groups"]
            found = [rule for group in groups for rule in group["rules"]]
            return None if any(rule["health"] == "unknown" for rule in found) else found

        found = wait_until(rules, "Prometheus evaluates every rule")
        assert {rule["type"] for rule in found} == {"alerting", "recording"}, found
        assert {rule["health"] for rule in found} == {"ok"}, [rule for rule in found if rule["health"] != "ok"]
        # Nothing is wrong with a gateway that has just answered.
        assert not [rule["name"] for rule in found if rule.get("state") == "firing"], found

    def _check_certificate_is_kept(self, gateway: str) -> None:
        """A second start finds the first one's certificate."""
        code = "print(open('/var/lib/kakitome/tls/tls.crt').read())"
        before = python(gateway, code)
        self.compose("up", "--no-build", "--no-deps", "certificate")
        assert python(gateway, code) == before

    def _stop(self, gateway: str) -> float:
        """As `docker compose stop` does it, with clients connected; returns the seconds it took."""
        with Crowd(f"ws://127.0.0.1:{published(gateway, 8080)}", CONNECTIONS) as crowd:
            self.compose("stop", "gateway")
            codes = crowd.join()
        state = inspect("container", gateway)["State"]
        assert state["ExitCode"] == 0, f"{state}\n{docker('logs', gateway)[-4000:]}"
        assert codes == [1012] * CONNECTIONS, codes
        seconds = drain_seconds(gateway)
        assert seconds < DRAIN_SECONDS, f"stopped after {seconds:.1f} s, with a drain window of {DRAIN_SECONDS} s"
        return seconds
