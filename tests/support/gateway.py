"""The gateway as its users run it: `python -m gateway serve` with a YAML file, in a process of its own."""

import json
import os
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support import procfs
from tests.support.process import START_SECONDS, STOP_SECONDS, ServiceProcess
from tests.support.tools import GATEWAY_TREE

Event = dict[str, Any]
"""One JSON line of the gateway's log."""

LOOPBACK_ANY_PORT: Final = "127.0.0.1:0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One scrape of /metrics."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(
            samples={
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def value(self, name: str, **labels: str) -> float:
        """Sum over the samples of that name whose labels contain `labels`; 0 where there is none."""
        wanted = labels.items()
        return sum(
            value for (sample, its_labels), value in self.samples.items() if sample == name and wanted <= its_labels
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer of the admin listener."""

    status: int
    body: str


class GatewayProcess:
    """Runs the gateway with `config` (as in the YAML file) while the `with` or `async with` block lasts.

    Listeners and admin get a free loopback port unless the config names them. A test that fails inside the block is
    shown the end of the gateway's log. `codec` forces "pure"; `cores` pins it; `tree` holds the package. `covered` lets
    coverage measure the process too, which slows it: not for tests of speed or memory.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        codec: str | None = None,
        cores: Sequence[int] | None = None,
        covered: bool = True,
        environment: Mapping[str, str] | None = None,
        tree: Path = GATEWAY_TREE,
        umask: int = -1,
    ) -> None:
        self.config: dict[str, Any] = {
            "listeners": [{"bind": LOOPBACK_ANY_PORT}],
            "admin": {"bind": LOOPBACK_ANY_PORT},
            **config,
        }
        self._codec = codec
        self._cores = cores
        self._covered = covered
        self._tree = tree
        self._umask = umask
        self._environment = dict(environment or {})
        self._folder = tempfile.TemporaryDirectory(prefix="kakitome-test-")
        self.config_file = Path(self._folder.name) / "kakitome.yaml"
        self.listeners: list[Event] = []
        self.admin_address = ""
        self.service = self._service()

    def _service(self) -> ServiceProcess:
        environment = {"PYTHONPATH": str(self._tree), **self._environment}
        if self._codec == "pure":
            environment["KAKITOME_PURE_CODEC"] = "1"
        if not self._covered:
            environment["COVERAGE_PROCESS_CONFIG"] = environment["COVERAGE_PROCESS_START"] = ""
        return ServiceProcess(
            # -P: not from the working directory, but from the tree that is to be tested.
            [sys.executable, "-P", "-m", "gateway", "serve", "--config", self.config_file],
            name="the gateway",
            started=r'"event": ?"ready"',
            environment=environment,
            cores=self._cores,
            umask=self._umask,
        )

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Writes the config and starts the process; returns when it is ready and its addresses are known."""
        self.write_config(self.config)
        self.service.start()
        self.listeners = [event for event in self.events if event.get("event") == "listening"]
        self.admin_address = next(
            (event["address"] for event in self.events if event.get("event") == "admin_listening"), ""
        )

    def stop(self) -> int:
        """Ends it with SIGTERM and returns the exit status."""
        return self.service.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash or the kernel's OOM killer would."""
        self.service.send_signal(signal.SIGKILL)
        self.service.wait()
        self.service.stop()

    def restart(self) -> None:
        """Starts it again, after `stop` or `kill`, at the same addresses."""
        bindings = [
            {**listener, "bind": event["address"]}
            for listener, event in zip(self.config["listeners"], self.listeners, strict=True)
        ]
        self.config = {
            **self.config,
            "listeners": bindings,
            "admin": {**self.config["admin"], "bind": self.admin_address},
        }
        self.service = self._service()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.service.__exit__(kind, error, traceback)
        self._folder.cleanup()

    async def __aenter__(self) -> Self:
        import trio

        await trio.to_thread.run_sync(self.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import trio

        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.__exit__, kind, error, traceback)

    # --- control -------------------------------------------------------------------------------------------------

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replaces the config file atomically, as editors and Kubernetes do; the gateway is not told."""
        self.config = dict(config)
        self.write_config_text(yaml.safe_dump(self.config, sort_keys=False))

    def write_config_text(self, text: str) -> None:
        """The same with anything for a config."""
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self.config_file)

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, then waits for the drain to end; returns the exit status."""
        self.service.send_signal(signal.SIGTERM)
        return self.service.wait(seconds)

    def hang_up(self) -> None:
        """SIGHUP: reload the configuration."""
        self.service.send_signal(signal.SIGHUP)

    # --- observation ---------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self.service.pid

    @property
    def events(self) -> list[Event]:
        """The log so far, lines that are not JSON left out."""
        return [event for line in self.service.lines if (event := parse_event(line)) is not None]

    def wait_for_event(self, name: str, *, seconds: float = START_SECONDS, after: int = 0, **fields: Any) -> Event:
        """Waits for a log line with that `event` and these fields (lines of before count too, from `after` on)."""

        def find(line: str) -> Event | None:
            event = parse_event(line)
            if event is None or event.get("event") != name:
                return None
            return event if fields.items() <= event.items() else None

        return self.service.wait_until(find, f"the event {name!r} {fields or ''}", seconds, after)

    def url(self, path: str = "/", *, listener: int = 0, host: str | None = None) -> str:
        """WebSocket URL of a path on one of the listeners; `host` replaces the address (a name in a certificate)."""
        event = self.listeners[listener]
        address = event["address"] if host is None else f"{host}:{event['address'].rpartition(':')[2]}"
        return f"{event['scheme']}://{address}{path}"

    def http_url(self, path: str = "/", *, listener: int = 0, host: str | None = None) -> str:
        """The same with http or https: pages, files, refusals."""
        return "http" + self.url(path, listener=listener, host=host).removeprefix("ws")

    def port(self, listener: int = 0) -> int:
        return int(self.listeners[listener]["address"].rpartition(":")[2])

    def ask_admin(self, path: str) -> Answer:
        """GET of the admin listener, error answers included."""
        try:
            with urllib.request.urlopen(f"http://{self.admin_address}{path}", timeout=10) as response:
                return Answer(status=response.status, body=response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(status=error.code, body=error.read().decode())

    def metrics(self) -> Metrics:
        """Scrapes /metrics."""
        return Metrics.parse(self.ask_admin("/metrics").body)

    def resident_bytes(self) -> int:
        """Resident memory of the process now."""
        return procfs.resident_bytes(self.pid)


def parse_event(line: str) -> Event | None:
    """A log line as JSON object, or None."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def route(name: str, path: str, endpoint: str, *, framing: str = "stream", **settings: Any) -> dict[str, Any]:
    """A route of the config that leads `path` to one endpoint, open to every origin; `settings` go to the route.

    Without health checks, unless `backend` asks for them: a test's backend sees only the test's connections.
    """
    backend = {"endpoints": [endpoint], "framing": framing, "health": None, **settings.pop("backend", {})}
    return {"name": name, "match": {"path": path}, "origins": ["*"], "backend": backend, **settings}
