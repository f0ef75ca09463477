"""What `kakitome connect` shows, and that no server steers the terminal with it."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.backend import Session
from gateway.client.console import Notes, shown, visible
from gateway.client.events import (
    Acknowledged,
    MessageRejected,
    MessagesLost,
    Opened,
    SessionState,
    StateChanged,
)
from gateway.client.faults import ConnectionFailed
from gateway.protocol.outbox import OutgoingMessage
from gateway.protocol.records import Rung
from tests.client.kit_backend import kit_backend
from tests.support.gateway import GatewayProcess, route
from tests.support.network import free_port
from tests.support.tools import REPOSITORY

COMMAND = [sys.executable, "-m", "gateway", "connect"]
PATIENCE_SECONDS = 60


def connect(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs the command to its end with `given` on standard input."""
    return subprocess.run(
        [*COMMAND, *arguments], input=given, capture_output=True, check=False, timeout=PATIENCE_SECONDS, cwd=REPOSITORY
    )


# --- showing ------------------------------------------------------------------------------------------------------


def test_a_server_cannot_steer_the_terminal() -> None:
    assert visible("\x1b[2J\r\x07ど\t\x7f\x9b31m") == "␛[2J␍␇ど\t␡\\x9b31m"


@pytest.mark.parametrize(
    ("message", "binary", "on_terminal", "output"),
    [
        ("どやさ", False, False, "どやさ\n".encode()),
        ("\x1b[0m", False, False, b"\x1b[0m\n"),
        ("\x1b[0m", False, True, "␛[0m\n".encode()),
        (b"\x00\xff", False, False, b"\x00\xff\n"),
        (b"\x00\xff", False, True, b"[2 bytes] 00 ff\n"),
        (bytes(65), False, True, b"[65 bytes] " + b" ".join([b"00"] * 64) + b" ...\n"),
        (b"\x00\xff", True, False, b"\x00\xff"),
        ("text", True, False, b"text"),
        (b"\x1b", True, True, b"[1 bytes] 1b\n"),
    ],
)
def test_a_message_is_shown_as_suits_who_reads_it(
    message: str | bytes, binary: bool, on_terminal: bool, output: bytes
) -> None:
    assert shown(message, binary=binary, on_terminal=on_terminal) == output


def outgoing(seq: int) -> OutgoingMessage:
    return OutgoingMessage(seq=seq, text=True, chunks=(b"x",))


def test_a_session_is_told_in_lines_and_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Notes(quiet=False)
    waiting = StateChanged(state=SessionState.WAITING, cause=ConnectionFailed("cannot connect"), delay_seconds=0.26)
    for event in (
        StateChanged(state=SessionState.OPEN),
        Opened(resumed=False, replayed=0),
        Acknowledged(first=1, last=3, count=3, rung=Rung.WRITTEN, settled=False),
        waiting,
        Opened(resumed=True, replayed=2),
        MessageRejected(seq=3, code=4009, reason="no"),
        Acknowledged(first=1, last=3, count=2, rung=Rung.CONSUMED, settled=True),
        Opened(resumed=False, replayed=0),
        MessagesLost(report=None, unknown=(outgoing(4),), never_forwarded=(outgoing(5), outgoing(7))),
        Acknowledged(first=8, last=8, count=0, rung=Rung.CONSUMED, settled=True),
    ):
        notes.tell(event)
    notes.sum_up()
    assert not notes.is_settled
    assert capsys.readouterr().err.splitlines() == [
        "session open",
        "1-3 written",
        "cannot connect; trying again in 0.3 s",
        "session resumed, 2 messages are sent again",
        "3 rejected: 4009 no",
        "1-3 consumed",
        "the gateway has begun a new session",
        "4 unknown",
        "5-7 never forwarded",
        "2 settled, 1 unknown, 2 never forwarded, 1 rejected",
    ]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Notes(quiet=True)
    notes.tell(Opened(resumed=False, replayed=0))
    notes.sum_up()
    assert capsys.readouterr().err == ""
    assert notes.is_settled


# --- the command, with our gateway --------------------------------------------------------------------------------


async def answer_as_told(session: Session) -> None:
    """Echoes; rejects `reject`, and ends without an acknowledgement at `fail`."""
    async for message in session:
        if message == "reject":
            message.reject(4009, "not this one")
        elif message == "fail":
            session.manual_ack = True  # not even this message
            session.close(4000, "as told")
        elif message == "end":
            session.close(1000, "done")
        else:
            await session.send(message)


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    routes = [
        route("nothing", "/nothing", f"tcp://127.0.0.1:{free_port()}"),
        {**route("strict", "/strict", f"tcp://127.0.0.1:{free_port()}"), "origins": ["https://a.example"]},
    ]
    with kit_backend(answer_as_told) as port:
        routes.append(route("told", "/told", f"tcp://127.0.0.1:{port}", framing="records"))
        with GatewayProcess({"routes": routes}) as gateway:
            yield gateway
