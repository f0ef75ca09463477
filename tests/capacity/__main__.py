"""`python -m tests.capacity [--document]`: measures what a connection takes, and writes the table of docs/capacity.md.

It opens connections to a gateway of its own, plain ones and records sessions, and looks at what it has grown by.
The loads are small and go over loopback; what is computed is computed from the gateway's own constants.
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from gateway.config.model import Delivery
from gateway.protocol.build import CODEC, DATA_PATH
from gateway.protocol.records import RecordType, encode_record
from gateway.transport.descriptors import DESCRIPTORS_A_CONNECTION, Budget
from gateway.transport.listener import BACKLOG
from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.tools import COMPILED_TREE, REPOSITORY

PAGE: Final = REPOSITORY / "docs" / "capacity.md"
BEGIN: Final = "<!-- Below: by `make capacity`. -->\n"
END: Final = "<!-- Above: by `make capacity`. -->\n"

CONNECTIONS: Final = 400
"""More would need more descriptors than many machines give; a page of memory more or less is 10 bytes of each."""
DESCRIPTOR_LIMITS: Final = (1024, 65_536, 262_144)
BINARY: Final = 2
GIB: Final = 1 << 30


def _plain(gateway: GatewayProcess) -> RawClient:
    client = RawClient(gateway.url("/stream"))
    client.send(BINARY, b"x")
    client.receive()
    return client


def _records(gateway: GatewayProcess) -> RawClient:
    client = RawClient(gateway.url("/stream"), headers={"Sec-WebSocket-Protocol": "kakitome.v1"})
    client.send(BINARY, encode_record(RecordType.OPEN, 0, 0, b"{}"))
    client.receive()
    return client


def _cpu_seconds(gateway: GatewayProcess) -> float:
    fields = Path(f"/proc/{gateway.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _growth(gateway: GatewayProcess, connect: Callable[[GatewayProcess], RawClient]) -> tuple[int, float]:
    """Bytes of memory and CPU seconds that each connection took. What the first ones take is taken once."""
    with ExitStack() as held:
        for _ in range(CONNECTIONS // 10):
            held.enter_context(connect(gateway))
        memory, cpu = gateway.resident_bytes(), _cpu_seconds(gateway)
        for _ in range(CONNECTIONS):
            held.enter_context(connect(gateway))
        return (gateway.resident_bytes() - memory) // CONNECTIONS, (_cpu_seconds(gateway) - cpu) / CONNECTIONS


def rows() -> Iterator[tuple[str, str, str]]:
    """What, how much, and by what it is known."""
    tree = COMPILED_TREE if (COMPILED_TREE / ".built").exists() else REPOSITORY
    form = "compiled data path" if tree == COMPILED_TREE else f"{CODEC} codec, {DATA_PATH} data path"
    with tcp_echo() as backend:
        endpoint = f"tcp://127.0.0.1:{backend}"
        config = {
            "routes": [route("stream", "/stream", endpoint, limits={"connections_per_address": None})],
            "handshakes": {"waiting_per_address": 4096},
            "log": {"sessions": False},
        }
        with GatewayProcess(config, tree=tree) as gateway:
            plain, cpu = _growth(gateway, _plain)
        with GatewayProcess(config, tree=tree) as gateway:
            records, records_cpu = _growth(gateway, _records)
    yield "memory of an idle connection", f"{plain:,} bytes", f"measured, {CONNECTIONS} of them, {form}"
    yield "idle connections per GiB", f"{GIB // plain:,}", "computed from that"
    yield "memory of an idle records session", f"{records:,} bytes", "measured likewise, a plain backend behind it"
    yield "idle records sessions per GiB", f"{GIB // records:,}", "computed from that"
    yield "handshakes a second and core", f"{1 / cpu:,.0f}", "measured: CPU time of opening, `log.sessions: false`"
    yield "records sessions opened a second and core", f"{1 / records_cpu:,.0f}", "measured likewise"
    yield from computed()


def computed() -> Iterator[tuple[str, str, str]]:
    """What needs no load: from the gateway's constants and this machine's settings."""
    delivery = Delivery()
    window = f"{delivery.window_bytes >> 20} MiB or {delivery.window_messages:,} messages, each way"
    yield "a records session may hold", window, "`delivery.window_bytes` and `window_messages`, by default"
    yield (
        "full windows per GiB",
        f"{GIB // (2 * delivery.window_bytes):,} sessions",
        "computed; `memory` stops reading long before",
    )
    for limit in DESCRIPTOR_LIMITS:
        yield (
            f"connections with `LimitNOFILE={limit}`",
            f"{Budget(limit=limit).for_connections // DESCRIPTORS_A_CONNECTION:,}",
            "computed: two a connection, the last ones kept back",
        )
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    yield (
        "connections to one backend address",
        f"{last - first + 1:,}",
        f"`net.ipv4.ip_local_port_range` here: {first} to {last}",
    )
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    yield (
        "clients that may wait to be accepted",
        f"{min(BACKLOG, somaxconn):,}",
        "`net.core.somaxconn` here, at most 4,096",
    )


def table() -> str:
    """The measured part of the page."""
    lines = ["| | here | by |", "|---|---|---|"]
    lines += [f"| {what} | {much} | {source} |" for what, much, source in rows()]
    lines += [
        "",
        f"Measured on {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}.",
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--document", is_flag=True, help="Write it into docs/capacity.md, too.")
def main(document: bool) -> None:
    """Measure what connections take."""
    text = table()
    click.echo(text)
    if document:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


if __name__ == "__main__":
    main(prog_name="python -m tests.capacity")
