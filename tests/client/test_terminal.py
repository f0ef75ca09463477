"""`kakitome connect`: what it reads, prints and returns."""

import os
import pty
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection
from websockets.typing import Subprotocol

from gateway.backend import Session
from gateway.client.console import MAX_LINE_BYTES, InputFault, Lines, read_input
from gateway.client.terminal import trusting
from tests.client.kit_backend import kit_backend
from tests.client.websockets_server import running
from tests.support.certificates import Certificates
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


# --- reading ------------------------------------------------------------------------------------------------------


@given(lines=st.lists(st.text().map(lambda line: line.replace("\n", "")), max_size=6), cut=st.integers(1, 20))
def test_lines_are_lines_however_they_come(lines: list[str], cut: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    splitter = Lines()
    found = [line for begin in range(0, len(data), cut) for line in splitter.feed(data[begin : begin + cut])]
    assert found + splitter.feed_eof() == lines


def test_the_last_line_needs_no_end() -> None:
    splitter = Lines()
    assert splitter.feed(b"one\ntwo") == ["one"]
    assert splitter.feed_eof() == ["two"]


def test_a_line_that_is_not_utf8_is_named_by_its_number() -> None:
    splitter = Lines()
    splitter.feed(b"one\ntwo\n")
    with pytest.raises(InputFault, match="line 3 of the input is not UTF-8; --binary sends any bytes"):
        splitter.feed(b"\xff\n")


def test_a_line_is_not_gathered_for_ever() -> None:
    splitter = Lines()
    splitter.feed(b"one\n" + b"x" * MAX_LINE_BYTES)
    with pytest.raises(InputFault, match="line 2 is longer than"):
        splitter.feed(b"x")


async def test_an_input_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.open("/", os.O_RDONLY)
    monkeypatch.setattr("gateway.client.console.STDIN", folder)
    with pytest.raises(InputFault, match="standard input cannot be read: Is a directory"):
        await anext(read_input(Lines()))
    os.close(folder)


# --- trusting -----------------------------------------------------------------------------------------------------


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(InputFault, match=r"ca\.pem: no certificates to be read: no certificate or crl found"):
        trusting(tmp_path / "ca.pem", insecure=False)


def test_insecure_trusts_anybody() -> None:
    context = trusting(None, insecure=True)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


# --- the command, with a server that is not ours ------------------------------------------------------------------


async def serve_as_told(server: ServerConnection) -> None:
    """Echoes; `close CODE REASON` closes, `drop` ends without a word."""
    async for message in server:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await server.close(int(code), reason)
        elif message == "drop":
            server.transport.abort()
        else:
            await server.send(message)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    def choose(server: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return offered[0] if "chat" in offered else None

    with running(serve_as_told, select_subprotocol=choose, max_size=None) as url:
        yield url


def test_lines_in_messages_out(url: str) -> None:
    done = connect(url, given="one\n\nどやさ".encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\n\nどやさ\n".encode(), b"")


def test_bytes_in_bytes_out(url: str) -> None:
    data = os.urandom(300_000)
    done = connect("--binary", url, given=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


def test_one_ends_after_the_first_answer_however_long_that_takes(url: str) -> None:
    done = connect("--one", url, given=b"a\nb\nc\n")
    assert (done.returncode, done.stdout) == (0, b"a\n")


def test_one_that_never_comes_is_a_failure_that_a_script_can_see(url: str) -> None:
    done = connect("--one", "--quiet", url, given=b"close 1000 bye\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the connection ended before a message came" in done.stderr
    assert b"--binary" in done.stderr


def test_without_lingering_nothing_is_waited_for(url: str) -> None:
    done = connect("--linger", "0", url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("code", [1000, 1001])
def test_a_close_in_order_is_no_failure(url: str, code: int) -> None:
    done = connect("--linger", "30", url, given=f"a\nclose {code} bye\n".encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\n", b"")


def test_any_other_close_is_told_after_what_came_before(url: str) -> None:
    done = connect("--linger", "30", url, given=b"a\nclose 4000 enough of \x1b[5mthis\n")
    assert (done.returncode, done.stdout) == (1, b"a\n")
    assert done.stderr.startswith(b"kakitome: the connection was closed with 4000 enough of ")


def test_a_lost_connection_is_told(url: str) -> None:
    done = connect("--linger", "30", url, given=b"drop\n")
    assert (done.returncode, done.stderr) == (1, b"kakitome: the connection was lost\n")


def test_input_that_is_not_text_is_told(url: str) -> None:
    done = connect(url, given=b"\xff\n")
    assert done.returncode == 1
    assert done.stderr == b"kakitome: line 1 of the input is not UTF-8; --binary sends any bytes\n"


def test_a_reader_that_has_seen_enough_ends_it_quietly(url: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "--linger", "30", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"a\n"
        process.stdout.close()
        process.stdin.write(b"b\n")
        process.stdin.flush()
        assert process.wait(PATIENCE_SECONDS) == 1
        assert process.stderr.read() == b""


def test_ctrl_c_closes_in_order(url: str) -> None:
    with subprocess.Popen(
        [*COMMAND, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"a\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        assert process.stderr.read() == b""


def test_an_input_that_is_closed_is_told(url: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", *COMMAND, "--linger", "0", url],
        capture_output=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        cwd=REPOSITORY,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nobody_listening_is_one_line() -> None:
    port = free_port()
    done = connect(f"ws://127.0.0.1:{port}/")
    assert done.returncode == 1
    assert done.stderr == f"kakitome: cannot connect to 127.0.0.1 port {port}: Connection refused\n".encode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://example.com/"], "is no WebSocket URL"),
        (["--header", "nonsense", "ws://example.com/"], "'nonsense' is no header: write 'Name: value'"),
        (["--header", "Upgrade: h2c", "ws://example.com/"], "the header Upgrade belongs to the handshake itself"),
        (["--session", "--subprotocol", "chat", "ws://example.com/"], "--session speaks kakitome.v1"),
        (["--ping", "0", "ws://example.com/"], "--ping"),
        (["--ca", "/nowhere.pem", "wss://example.com/"], "--ca"),
    ],
)
def test_a_command_line_that_cannot_be_is_status_2(arguments: list[str], words: str) -> None:
    done = connect(*arguments)
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_server_that_speaks_no_records_is_told(url: str) -> None:
    done = connect("--session", url)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"kakitome: the server does not speak kakitome.v1 at /\n"


def test_an_own_authority_can_be_trusted(tmp_path: Path) -> None:
    certificates = Certificates.issue(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with running(tls=context) as url:
        refused = connect(url, given=b"a\n")
        assert refused.returncode == 1
        assert b"cannot be trusted" in refused.stderr
        for arguments in (["--ca", str(certificates.authority_file)], ["--insecure"]):
            assert connect(*arguments, url, given=b"a\n").stdout == b"a\n"


def test_at_a_terminal_ctrl_d_ends_it_and_control_characters_are_shown(url: str) -> None:
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--subprotocol", "chat", url], stdin=terminal, stdout=terminal, stderr=terminal, cwd=REPOSITORY
    ) as process:
        os.close(terminal)
        screen = _read_until(controller, rb"connected with subprotocol chat; Ctrl-D ends the connection")
        assert b"\x1b[2m" in screen, "what is said about the connection is dim"
        os.write(controller, "\x07どやさ\n".encode())
        _read_until(controller, "␇どやさ\r\n".encode())
        os.write(controller, b"\x04")
        assert process.wait(PATIENCE_SECONDS) == 0
    os.close(controller)


def _read_until(descriptor: int, pattern: bytes) -> bytes:
    screen = b""
    while not re.search(pattern, screen):
        screen += os.read(descriptor, 4096)
    return screen


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


def test_a_session_shows_receipts_beside_the_messages(gateway: GatewayProcess) -> None:
    done = connect("--session", gateway.url("/told"), given=b"a\nb\n")
    assert (done.returncode, done.stdout) == (0, b"a\nb\n")
    told = done.stderr.decode().splitlines()
    assert told[0] == "session open"
    assert told[-1] == "2 settled, 0 unknown, 0 never forwarded"
    assert told[-2].endswith("2 consumed")


def test_a_rejected_message_is_told_and_fails_the_command(gateway: GatewayProcess) -> None:
    done = connect("--session", gateway.url("/told"), given=b"a\nreject\n")
    assert (done.returncode, done.stdout) == (1, b"a\n")
    assert "2 rejected: 4009 not this one" in done.stderr.decode()
    assert done.stderr.decode().splitlines()[-1] == "1 settled, 0 unknown, 0 never forwarded, 1 rejected"


def test_an_end_over_unsettled_messages_is_told_and_fails_the_command(gateway: GatewayProcess) -> None:
    done = connect("--session", gateway.url("/told"), given=b"fail\n")
    assert done.returncode == 1
    told = done.stderr.decode().splitlines()
    assert told[-3:] == [
        "1 unknown",
        "0 settled, 1 unknown, 0 never forwarded",
        "kakitome: the session was closed with 4000 as told",
    ]


def test_an_end_in_order_is_no_failure(gateway: GatewayProcess) -> None:
    done = connect("--session", "--quiet", "--linger", "30", gateway.url("/told"), given=b"a\nend\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\n", b"")


@pytest.mark.parametrize("session", [False, True])
def test_a_refusal_is_told_with_status_and_reason(gateway: GatewayProcess, session: bool) -> None:
    arguments = ["--session"] if session else []
    done = connect(*arguments, "--origin", "https://b.example", gateway.url("/strict"))
    assert done.returncode == 1
    assert done.stderr.startswith(b"kakitome: the server answered 403 Forbidden: ")
    assert b"https://b.example" in done.stderr
    done = connect(gateway.url("/nothing"))
    assert done.stderr.startswith(b"kakitome: the server answered 502 Bad Gateway: ")
