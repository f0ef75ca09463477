"""The browser client in Node 20, 22, 24 and Bun, through a real gateway: what breaks, and what is told of it."""

import json
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY
from tests.web.cable import Cable
from tests.web.runtimes import RUNTIMES

HERE: Final = Path(__file__).parent

SUITE_SECONDS: Final = 300.0
"""Generous: two cores run everything at once."""

CUTS: Final = 30
KILLS: Final = 5


@pytest.fixture(params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> list[str]:
    """The command line of each runtime."""
    return RUNTIMES[request.param]()


@pytest.fixture
def node() -> list[str]:
    """Of the system's Node, where it is not the runtime that is tried."""
    return RUNTIMES["node"]()


@contextmanager
def gateway_to(endpoint: str, framing: str, **more: Any) -> Iterator[GatewayProcess]:
    """A gateway with the route /echo to the echo there."""
    with GatewayProcess({"routes": [route("echo", "/echo", endpoint, framing=framing, **more)]}) as gateway:
        yield gateway


def echo_at(port: int = 0) -> ServiceProcess:
    """An echo that speaks records and keeps its sessions in memory."""
    argv = [sys.executable, "-m", "gateway.backend.echo", "--port", str(port)]
    return ServiceProcess(argv, started=r"listening on (\S+)", environment={"PYTHONPATH": str(REPOSITORY)})


@contextmanager
def records_echo() -> Iterator[GatewayProcess]:
    """A gateway whose echo speaks records."""
    with echo_at() as echo:
        assert echo.started_match is not None
        with gateway_to(f"tcp://{echo.started_match[1]}", "records") as gateway:
            yield gateway


def script(runtime: list[str], name: str, *arguments: object) -> ServiceProcess:
    """One of the modules here, running."""
    return ServiceProcess([*runtime, str(HERE / name), *map(str, arguments)], name=name)


def last_words(process: ServiceProcess) -> dict[str, Any]:
    """The JSON that it ends with."""
    told: dict[str, Any] = json.loads(process.wait_for_line(r"^\{.*\}$", seconds=SUITE_SECONDS)[0])
    assert process.wait() == 0
    return told


def is_resumed(line: str, times: int) -> bool | None:
    """Whether the line says that the session was resumed so often, or oftener."""
    found = re.fullmatch(r"resumed (\d+) times", line)
    return True if found and int(found[1]) >= times else None


def converse(runtime: list[str], port: int, strike: Callable[[], None], strikes: int) -> dict[str, Any]:
    """Lets a client talk with the echo at the port, strikes while messages are under way, and gives what it says then.

    It has checked by itself that every message was settled, and echoed once and in order.
    """
    with script(runtime, "conversation.mjs", f"ws://127.0.0.1:{port}/echo", strikes) as process:
        for resumes in range(strikes):
            process.wait_until(partial(is_resumed, times=resumes), f"{resumes} resumes", SUITE_SECONDS)
            strike()
        return last_words(process)


def test_a_conversation_survives_cuts_with_every_message_exactly_once(runtime: list[str]) -> None:
    with records_echo() as gateway, Cable(gateway.port()) as cable:
        told = converse(runtime, cable.port, cable.cut, CUTS)
    assert (told["code"], told["wasClean"], told["rung"]) == (1000, True, "consumed")
    assert told["resumes"] >= CUTS


def test_a_conversation_survives_the_death_of_the_gateway_with_every_message_exactly_once(node: list[str]) -> None:
    with records_echo() as gateway:

        def kill() -> None:
            gateway.kill()
            gateway.restart()

        told = converse(node, gateway.port(), kill, KILLS)
    assert (told["wasClean"], told["rung"]) == (True, "consumed")
    assert told["resumes"] >= KILLS


def test_an_unmodified_service_keeps_its_connection_through_cuts(node: list[str]) -> None:
    with (
        tcp_echo() as port,
        gateway_to(f"tcp://127.0.0.1:{port}", "lines") as gateway,
        Cable(gateway.port()) as cable,
    ):
        told = converse(node, cable.port, cable.cut, CUTS)
    assert told["rung"] == "reached"
    assert told["resumes"] >= CUTS


def test_attempts_that_are_refused_are_over_at_once_and_are_as_many_as_were_asked_for(runtime: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # An attempt that nobody ended would take its connect timeout, an hour.
    with script(runtime, "refused.mjs", f"ws://127.0.0.1:{port}/", 5) as process:
        told = last_words(process)
    assert told["errors"] == ["ConnectionFailed"] * 5
    assert all(told["causes"])
    assert (told["code"], told["reason"]) == (1006, "no connection after 5 attempts")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["in good order", "killed"])
def test_a_backend_that_restarts_costs_a_session_and_not_the_conversation(
    runtime: list[str], how: signal.Signals
) -> None:
    with echo_at() as echo:
        assert echo.started_match is not None
        address = echo.started_match[1]
        port = int(address.rpartition(":")[2])
        with (
            gateway_to(f"tcp://{address}", "records", delivery={"grace": "5s"}) as gateway,
            script(runtime, "restarts.mjs", f"ws://127.0.0.1:{gateway.port()}/echo", 2) as process,
        ):
            process.wait_for_line(r"^session 1: 10 echoes$", seconds=SUITE_SECONDS)
            echo.send_signal(how)
            echo.wait()
            with echo_at(port):
                told = last_words(process)
    # It has checked by itself that each message was settled, or given back as lost, and none both.
    assert (told["sessions"], told["code"], told["wasClean"]) == (2, 1000, True)


def test_close_while_parked_tells_the_backend_at_once(runtime: list[str]) -> None:
    with (
        records_echo() as gateway,
        Cable(gateway.port()) as cable,
        script(runtime, "parked.mjs", f"ws://127.0.0.1:{cable.port}/echo") as process,
    ):
        process.wait_for_line("^open$")
        cable.take_down()
        process.wait_for_line("^parked$")
        cable.bring_up()
        process.send_signal(signal.SIGUSR2)
        told = last_words(process)
        gateway.wait_for_event("session_ended", code=4000)
    assert (told["code"], told["wasClean"]) == (4000, True)


def test_a_client_that_only_receives_finds_a_way_that_died_in_silence(runtime: list[str]) -> None:
    timeouts = {"keepalive": "1s", "keepalive_timeout": "1s"}
    with echo_at() as echo:
        assert echo.started_match is not None
        with (
            gateway_to(f"tcp://{echo.started_match[1]}", "records", timeouts=timeouts) as gateway,
            Cable(gateway.port()) as cable,
            script(runtime, "idle.mjs", f"ws://127.0.0.1:{cable.port}/echo") as process,
        ):
            process.wait_for_line("^idle$")
            cable.swallow()
            told = last_words(process)
    assert told["resumes"] == 1
    assert told["errors"] == ["ConnectionFailed"]
