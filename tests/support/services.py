"""Real services that the gateway stands in front of, started on free ports for one test."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.network import free_port, wait_for_port
from tests.support.process import ServiceProcess
from tests.support.tools import need, need_path


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """Runs Redis without persistence; gives its port."""
    port = free_port()
    argv = [need("redis-server", "apt-get install redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    argv += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    with ServiceProcess(argv, started="Ready to accept connections"):
        yield port


@contextmanager
def mosquitto_broker(folder: Path) -> Iterator[int]:
    """Runs the Mosquitto MQTT broker on a plain TCP listener, without its own WebSocket support; gives its port."""
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\nlog_dest stderr\n"
    )
    argv = [need("mosquitto", "apt-get install mosquitto"), "-v", "-c", str(config)]
    with ServiceProcess(argv, started=r"mosquitto version .* running") as service:
        wait_for_port(port, service)
        yield port


@contextmanager
def postgresql_server() -> Iterator[int]:
    """Runs PostgreSQL with an empty cluster that asks nobody for a password, user `postgres`; gives its port."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = folders[-1] if folders else need_path("/usr/lib/postgresql", "apt-get install postgresql")
    port = free_port()
    with TemporaryDirectory(prefix="kakitome-postgresql-") as name:
        as_whom = []
        if os.geteuid() == 0:  # it does not run as root
            shutil.chown(name, "postgres")
            as_whom = [need("runuser", "apt-get install util-linux"), "-u", "postgres", "--"]
        cluster = Path(name) / "cluster"
        initdb = [*as_whom, str(programs / "initdb"), "--auth=trust", "--username=postgres", "--no-sync", str(cluster)]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        argv = [*as_whom, str(programs / "postgres"), "-D", str(cluster), "-p", str(port)]
        argv += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={name}", "-c", "fsync=off"]
        with ServiceProcess(argv, name="postgres", started="ready to accept connections"):
            yield port


@dataclass(frozen=True, slots=True, kw_only=True)
class VncServer:
    """A VNC server with a desktop of 320 by 240 pixels."""

    port: int
    display: str

    def paint(self, red: int, green: int, blue: int) -> None:
        """Gives the whole desktop one colour."""
        xsetroot = need("xsetroot", "apt-get install x11-xserver-utils")
        colour = f"#{red:02x}{green:02x}{blue:02x}"
        with ServiceProcess([xsetroot, "-display", self.display, "-solid", colour]) as painter:
            assert painter.wait() == 0, painter.report()


@contextmanager
def vnc_server(port: int | None = None) -> Iterator[VncServer]:
    """Runs Xtigervnc, a VNC server with a desktop of its own; without a password, at any port that is free."""
    xtigervnc = need("Xtigervnc", "apt-get install tigervnc-standalone-server")
    port = port or free_port()
    display = f":{port}"
    argv = [xtigervnc, display, "-rfbport", str(port), "-interface", "127.0.0.1", "-SecurityTypes", "None"]
    argv += ["-geometry", "320x240", "-depth", "24", "-ac"]
    with ServiceProcess(argv, name="Xtigervnc") as server:
        wait_for_port(port, server)
        yield VncServer(port=port, display=display)
