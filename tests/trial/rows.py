"""The trials that docs/trial.md tells of: every pairing of Kakitome's, other gateways, and the long proofs."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gateway.trial.trial import BackendKind, ClientKind, Settings
from tests.support.network import free_port
from tests.support.tools import find_tool

SEED: Final = 20261121

COMPARED: Final = Settings(clients=10, messages=1000, faults=100, seed=SEED)
"""What every pairing and every gateway is put through."""

LONG: Final = replace(COMPARED, clients=20, messages=5000, faults=1000, patience_seconds=120.0)
"""100,000 messages each way under 1,000 faults; kills are among them."""

NGINX: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{listen};
        location / {{
            proxy_pass http://127.0.0.1:{backend};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}
    }}
}}
"""

Prepare = Callable[[Settings, Path], Settings]
"""Says where a gateway listens, where its backend does and how it starts; its files go into the folder."""


def _kakitome(settings: Settings, folder: Path) -> Settings:
    return settings


def _websockify(settings: Settings, folder: Path) -> Settings:
    listen, backend = free_port(), free_port()
    command = [sys.executable, "-m", "websockify", f"127.0.0.1:{listen}", f"127.0.0.1:{backend}"]
    return _other(settings, command, listen, backend)


def _nginx(settings: Settings, folder: Path) -> Settings:
    listen, backend = free_port(), free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, listen=listen, backend=backend))
    command = [find_tool("nginx") or "nginx", "-c", str(config), "-e", "stderr", "-p", str(folder)]
    return _other(settings, command, listen, backend)


def _other(settings: Settings, command: list[str], listen: int, backend: int) -> Settings:
    return replace(
        settings,
        url=f"ws://127.0.0.1:{listen}/",
        gateway_command=shlex.join(command),
        backend_bind=("127.0.0.1", backend),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One trial of the document."""

    name: str
    settings: Settings
    prepare: Prepare = _kakitome
    is_long: bool = False


PLAIN: Final = replace(COMPARED, client=ClientKind.PLAIN, backend=BackendKind.STREAM)

_ROWS: Final = (
    Row(name="records-records-kills", settings=replace(COMPARED, kills=5)),
    Row(name="records-stream", settings=replace(COMPARED, backend=BackendKind.STREAM)),
    Row(name="records-stream-kills", settings=replace(COMPARED, backend=BackendKind.STREAM, kills=5)),
    Row(name="plain-records", settings=replace(COMPARED, client=ClientKind.PLAIN)),
    Row(name="plain-stream", settings=PLAIN),
    Row(name="websockify", settings=replace(PLAIN, name="websockify"), prepare=_websockify),
    Row(
        name="nginx",
        settings=replace(PLAIN, name="nginx", backend=BackendKind.WEBSOCKET),
        prepare=_nginx,
    ),
    Row(name="long-records-records-kills", settings=replace(LONG, kills=50), is_long=True),
    Row(name="long-records-stream", settings=replace(LONG, backend=BackendKind.STREAM), is_long=True),
    Row(name="long-records-stream-kills", settings=replace(LONG, backend=BackendKind.STREAM, kills=50), is_long=True),
    Row(
        name="long-plain-stream",
        settings=replace(LONG, client=ClientKind.PLAIN, backend=BackendKind.STREAM),
        is_long=True,
    ),
)

ROWS: Final = {row.name: row for row in _ROWS}
"""In the order in which they run."""
