"""docs/recipes.md: its routes, as they stand there but for ports and folders, before the real services."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import yaml
from websockets.trio.client import connect
from websockets.typing import Origin, Subprotocol

from tests.client.test_terminal_ends import ssh_folder, ssh_server
from tests.docs.pages import DOCS, blocks
from tests.support.balancer import balancing
from tests.support.gateway import GatewayProcess
from tests.support.network import free_port, wait_for_port
from tests.support.process import ServiceProcess
from tests.support.services import mosquitto_broker, redis_server
from tests.support.tools import REPOSITORY, need

__all__ = ["ssh_folder"]  # a fixture

PATIENCE_SECONDS: Final = 60


def recipe(name: str, port: int) -> dict[str, Any]:
    """The route of that name, leading to a port of this host."""
    routes = [route for block in blocks(DOCS / "recipes.md", "yaml") for route in yaml.safe_load(block.text)]
    (route,) = (route for route in routes if route["name"] == name)
    route["backend"]["endpoints"] = [f"tcp://127.0.0.1:{port}"]
    return dict(route)


@contextmanager
def gateway_for(name: str, port: int) -> Iterator[GatewayProcess]:
    with GatewayProcess({"routes": [recipe(name, port)]}) as gateway:
        yield gateway


async def test_ssh_survives_a_cut_in_the_middle(ssh_folder: Path) -> None:
    """What the far side prints before, while and after its client's connection is reset comes whole, in order, once."""
    ssh = need("ssh", "apt-get install openssh-client")
    async with trio.open_nursery() as nursery:
        with ssh_server(ssh_folder) as port, gateway_for("ssh", port) as gateway:
            async with balancing([gateway.port()]) as line:
                proxy = f"{sys.executable} -m gateway connect --quiet --session --binary {line.url('/ssh')}"
                options = {
                    "ProxyCommand": proxy,
                    "StrictHostKeyChecking": "no",
                    "UserKnownHostsFile": "/dev/null",
                    "IdentityFile": str(ssh_folder / "user"),
                    "IdentitiesOnly": "yes",
                    "LogLevel": "ERROR",
                }
                command = [ssh, "-F", "none", *(word for item in options.items() for word in ("-o", "=".join(item)))]
                # It goes on only when it is told to, so that the cut is in the middle however fast this machine is.
                remote = "echo before; read word; seq 1 20000; echo $word; cat | wc -c"
                with trio.fail_after(PATIENCE_SECONDS):
                    run = partial(trio.run_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)
                    process: trio.Process = await nursery.start(run, [*command, "gateway.invalid", remote])
                    assert process.stdin is not None
                    assert process.stdout is not None
                    output = b""
                    while b"before\n" not in output:
                        output += await process.stdout.receive_some()
                    await line.cut()
                    await process.stdin.send_all(b"after\n")
                    while b"after\n" not in output:
                        output += await process.stdout.receive_some()
                    await line.cut()
                    await process.stdin.send_all(b"x" * 200_000)
                    await process.stdin.aclose()
                    while data := await process.stdout.receive_some():
                        output += data
                    assert line.connections >= 3
                numbers = "".join(f"{number}\n" for number in range(1, 20001)).encode()
                assert output == b"before\n" + numbers + b"after\n200000\n"


def test_redis_answers_the_command_of_the_page(tmp_path: Path) -> None:
    with redis_server(tmp_path) as port, gateway_for("redis", port) as gateway:
        command = [sys.executable, "-m", "gateway", "connect", "--binary", gateway.url("/redis")]
        done = subprocess.run(
            command, input=b"PING\r\n", capture_output=True, check=True, cwd=REPOSITORY, timeout=PATIENCE_SECONDS
        )
    assert done.stdout == b"+PONG\r\n"


async def test_mqtt_is_agreed_on_and_the_broker_answers(tmp_path: Path) -> None:
    with mosquitto_broker(tmp_path) as port, gateway_for("mqtt", port) as gateway, trio.fail_after(PATIENCE_SECONDS):
        origin = Origin("https://app.example.com")
        async with connect(gateway.url("/mqtt"), subprotocols=[Subprotocol("mqtt")], origin=origin) as client:
            assert client.subprotocol == "mqtt"
            # CONNECT of MQTT 3.1.1, clean session, no keepalive, client `a`; CONNACK says yes.
            await client.send(bytes.fromhex("100d00044d515454040200000001") + b"a")
            assert await client.recv() == bytes.fromhex("20020000")


@contextmanager
def postgres() -> Iterator[int]:
    """A PostgreSQL with a database of its own; it does not run as root, so its folder is its user's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="kakitome-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = [need("runuser", "apt-get install util-linux"), "-u", "postgres", "--"]
    port = free_port()
    try:
        data = str(folder / "data")
        initdb = [*as_user, str(found[-1].with_name("initdb")), "-D", data, "-A", "trust", "-U", "kakitome"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
        server = [*as_user, str(found[-1]), "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
        with ServiceProcess([*server, "-k", str(folder)], name="postgres", folder=folder) as service:
            wait_for_port(port, service)
            yield port
    finally:
        shutil.rmtree(folder)


def test_psql_asks_through_a_port_of_its_own_machine() -> None:
    psql, socat = need("psql", "apt-get install postgresql-client"), need("socat", "apt-get install socat")
    near = free_port()
    with postgres() as port, gateway_for("postgres", port) as gateway:
        url = gateway.url("/postgres").replace(":", "\\:")  # a colon means something to socat
        bridge = f"{sys.executable} -m gateway connect --quiet --binary {url}"
        listen = f"TCP-LISTEN:{near},bind=127.0.0.1,reuseaddr,fork"
        with ServiceProcess([socat, "-d", "-d", listen, f"EXEC:{bridge}"], name="socat", started="listening on"):
            done = subprocess.run(
                [psql, f"host=127.0.0.1 port={near} user=kakitome dbname=postgres", "-Atc", "SELECT 6 * 7"],
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE_SECONDS,
            )
    assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr
