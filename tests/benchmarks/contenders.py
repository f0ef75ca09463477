"""The gateways that are compared, each started with the options that make it fast."""

import importlib.metadata
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gateway
from tests.support.gateway import GatewayProcess, route
from tests.support.network import free_port, wait_for_port
from tests.support.process import ServiceProcess
from tests.support.tools import COMPILED_TREE, REPOSITORY, find_tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A gateway that is up: where to connect, and the process to measure."""

    port: int
    path: str
    pid: int


Serve = Callable[[int, int, Path], AbstractContextManager[Running]]
"""(backend port, core to pin the gateway to, folder for its files) -> the gateway, running while the context lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One gateway. `backend` is what it relays to: "tcp", or "ws" for one that only passes WebSocket through."""

    name: str
    note: str
    serve: Serve
    version: Callable[[], str]
    backend: str = "tcp"
    most_connections: int | None = None
    tool: str | None = None
    tree: Path = REPOSITORY
    default: bool = True

    def missing(self) -> str | None:
        """What has to be installed before it can run, or None."""
        if not self.tree.exists():
            return f"{self.tree.relative_to(REPOSITORY)} does not exist: make compiled"
        if self.tool is None or find_tool(self.tool) is not None:
            return None
        return f"{self.tool} is not installed"


def package_version(*names: str) -> Callable[[], str]:
    """Versions of the Python packages, joined."""
    return lambda: ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def program_version(program: str, option: str) -> Callable[[], str]:
    """The first version-like word that the program prints."""

    def ask() -> str:
        done = subprocess.run([find_tool(program) or program, option], capture_output=True, text=True, check=True)
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        return f"{program} {found[0] if found else 'unknown'}"

    return ask


def serve_kakitome(*, tree: Path = COMPILED_TREE, codec: str | None = None, **settings: Any) -> Serve:
    """Kakitome with a `stream` route; only the limits that a benchmark would run into are raised."""

    @contextmanager
    def serve(backend_port: int, core: int, folder: Path) -> Iterator[Running]:
        limits = {"connections": 100_000, "connections_per_address": 100_000}
        config = {
            "routes": [route("bench", "/", f"tcp://127.0.0.1:{backend_port}", limits=limits, **settings)],
            "log": {"format": "json", "level": "info"},
        }
        with GatewayProcess(config, codec=codec, cores=[core], covered=False, tree=tree) as process:
            yield Running(port=process.port(), path="/", pid=process.pid)

    return serve


@contextmanager
def serve_program(argv: Sequence[str | Path], port: int, core: int) -> Iterator[Running]:
    """A program that is up as soon as it takes connections."""
    with ServiceProcess(argv, cores=[core]) as service:
        wait_for_port(port, service)
        yield Running(port=port, path="/", pid=service.pid)


def serve_websockify(backend_port: int, core: int, folder: Path) -> AbstractContextManager[Running]:
    port = free_port()
    argv = [sys.executable, "-m", "websockify", f"127.0.0.1:{port}", f"127.0.0.1:{backend_port}"]
    return serve_program(argv, port, core)


def serve_websocat(backend_port: int, core: int, folder: Path) -> AbstractContextManager[Running]:
    port = free_port()
    # 64 KiB is the size of its buffer by default; larger ones made it slower here.
    argv = [
        find_tool("websocat") or "websocat",
        "--binary",
        "--exit-on-eof",
        f"ws-l:127.0.0.1:{port}",
        f"tcp:127.0.0.1:{backend_port}",
    ]
    return serve_program(argv, port, core)


NGINX_CONFIG: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; use epoll; multi_accept on; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://127.0.0.1:{backend_port};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            tcp_nodelay on;
        }}
    }}
}}
"""


def serve_nginx(backend_port: int, core: int, folder: Path) -> AbstractContextManager[Running]:
    port = free_port()
    config = folder / "nginx.conf"
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    config.write_text(NGINX_CONFIG.format(folder=folder, port=port, backend_port=backend_port, files=files))
    argv: list[str | Path] = [find_tool("nginx") or "nginx", "-c", config, "-e", "stderr", "-p", folder]
    return serve_program(argv, port, core)


@contextmanager
def serve_picows(backend_port: int, core: int, folder: Path) -> Iterator[Running]:
    argv = [sys.executable, "-m", "tests.benchmarks.picows_relay", str(backend_port)]
    with ServiceProcess(argv, name="picows relay", started=r"^port (\d+)$", cores=[core], folder=REPOSITORY) as service:
        assert service.started_match is not None
        yield Running(port=int(service.started_match[1]), path="/", pid=service.pid)


CONTENDERS: Final = (
    Contender(
        name="kakitome",
        note="as `pip install` leaves it with a C compiler: terminates WebSocket, `framing: stream` to TCP, delivery "
        "tracked",
        serve=serve_kakitome(),
        version=lambda: f"kakitome {gateway.__version__}",
        tree=COMPILED_TREE,
    ),
    Contender(
        name="kakitome-untracked",
        note="the same with `delivery: {track: false}`",
        serve=serve_kakitome(delivery={"track": False}),
        version=lambda: f"kakitome {gateway.__version__}",
        tree=COMPILED_TREE,
    ),
    Contender(
        name="kakitome-interpreted",
        note="with `KAKITOME_COMPILE=0`: the frame codec compiled, the rest interpreted",
        serve=serve_kakitome(tree=REPOSITORY),
        version=lambda: f"kakitome {gateway.__version__}",
    ),
    Contender(
        name="kakitome-pure",
        note="as `pip install` leaves it without a C compiler: all of it interpreted",
        serve=serve_kakitome(tree=REPOSITORY, codec="pure"),
        version=lambda: f"kakitome {gateway.__version__}",
        default=False,
    ),
    Contender(
        name="websockify",
        note="terminates WebSocket, relays to TCP; a process for each connection, which breaks near 500 of them: "
        "select() takes no file descriptor beyond 1,023; with numpy",
        serve=serve_websockify,
        version=package_version("websockify", "numpy"),
        most_connections=480,
    ),
    Contender(
        name="websocat",
        note="terminates WebSocket, relays to TCP; Rust",
        serve=serve_websocat,
        version=program_version("websocat", "--version"),
        tool="websocat",
    ),
    Contender(
        name="nginx",
        note="passes WebSocket through to a WebSocket backend after the handshake, reads no frames; one worker; C",
        serve=serve_nginx,
        version=program_version("nginx", "-v"),
        backend="ws",
        tool="nginx",
    ),
    Contender(
        name="picows",
        note="terminates WebSocket, relays to TCP (picows_relay.py); Cython on uvloop",
        serve=serve_picows,
        version=package_version("picows", "uvloop"),
    ),
)
