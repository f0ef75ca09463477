"""How `kakitome connect` ends: at the end of the input, by a signal, and where a mistake would go unnoticed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.websockets_server import running
from tests.support.gateway import GatewayProcess, route
from tests.support.network import free_port
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY, need

COMMAND = [sys.executable, "-m", "gateway", "connect"]
PATIENCE_SECONDS = 60

HEEDING = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])",
]
"""In front of a command: it is not told to ignore SIGHUP, even if the tests themselves run under `nohup`."""


def connect(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs the command to its end with `given` on standard input."""
    return subprocess.run(
        [*COMMAND, *arguments], input=given, capture_output=True, check=False, timeout=PATIENCE_SECONDS, cwd=REPOSITORY
    )


# --- services of bytes behind the gateway -------------------------------------------------------------------------


def answer_at_the_end(connection: socket.socket) -> None:
    """Like `sort` or `wc`: says nothing before it has all of its input."""
    given = b""
    while data := connection.recv(65536):
        given += data
    connection.sendall(given[::-1] * 20)


def answer_lines(connection: socket.socket) -> None:
    """Greets, and answers each line; half of one it waits for."""
    connection.sendall(b"hello\n")
    with connection.makefile("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            connection.sendall(b"you said " + line)


def answer_whole_lines(connection: socket.socket) -> None:
    """The same without a greeting."""
    with connection.makefile("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                connection.sendall(line)


def answer_late(connection: socket.socket) -> None:
    """Works for a while at the end of its input, and tells of it as it goes on."""
    while connection.recv(65536):
        pass
    for word in (b"one ", b"two ", b"three"):
        time.sleep(1.5)
        connection.sendall(word)


def ignore_the_end(connection: socket.socket) -> None:
    """Echoes, and does not mind the end of its input."""
    while data := connection.recv(65536):
        connection.sendall(data.removeprefix(b"silence"))
    time.sleep(PATIENCE_SECONDS)


def hang_up_after_a_greeting(connection: socket.socket) -> None:
    connection.sendall(b"hello\n")


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP service in a thread for each connection; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with (
        serving(answer_at_the_end) as end,
        serving(answer_lines) as lines,
        serving(answer_whole_lines) as whole,
        serving(hang_up_after_a_greeting) as brief,
        serving(answer_late) as late,
        serving(ignore_the_end) as deaf,
        GatewayProcess(
            {
                "routes": [
                    route("end", "/end", f"tcp://127.0.0.1:{end}"),
                    route("lines", "/lines", f"tcp://127.0.0.1:{lines}"),
                    route("whole", "/whole", f"tcp://127.0.0.1:{whole}"),
                    route("brief", "/brief", f"tcp://127.0.0.1:{brief}"),
                    route("late", "/late", f"tcp://127.0.0.1:{late}"),
                    route("deaf", "/deaf", f"tcp://127.0.0.1:{deaf}", timeouts={"close": "1s"}),
                ]
            }
        ) as gateway,
    ):
        yield gateway


def test_what_a_service_answers_to_the_end_of_the_input_is_printed(gateway: GatewayProcess) -> None:
    data = bytes(range(256)) * 500
    done = connect("--binary", gateway.url("/end"), given=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data[::-1] * 20


def test_in_a_session_whose_end_ends_both_ways_an_answer_to_it_is_told_as_unheard(gateway: GatewayProcess) -> None:
    done = connect("--session", "--binary", "--quiet", gateway.url("/end"), given=b"work")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"1 of the service's messages came too late to be heard" in done.stderr
    done = connect("--session", "--binary", "--quiet", gateway.url("/lines"), given=b"work\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\nyou said work\n", b"")


def test_a_slow_reader_gets_all_of_it_too(gateway: GatewayProcess) -> None:
    data = bytes(range(256)) * 500
    with subprocess.Popen(
        [*COMMAND, "--binary", "--linger", "0", gateway.url("/end")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(data)
        process.stdin.close()
        came = b""
        while part := os.read(process.stdout.fileno(), 10_000):
            came += part
        assert came == data[::-1] * 20
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr.read() == b""


def test_a_service_that_takes_its_time_to_answer_is_heard_to_the_end(gateway: GatewayProcess) -> None:
    done = connect("--binary", gateway.url("/late"), given=b"work\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one two three", b"")


NOT_ENDED = b"the service has not ended, and said nothing for 0.8 s"


def test_an_end_that_a_service_ignores_is_told(gateway: GatewayProcess) -> None:
    done = connect("--binary", "--quiet", gateway.url("/deaf"), given=b"work\n")
    assert (done.returncode, done.stdout) == (0, b"work\n")
    assert NOT_ENDED + b"; more may have been to come" in done.stderr
    done = connect("--binary", "--quiet", gateway.url("/deaf"), given=b"silence")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"nothing came back: " + NOT_ENDED in done.stderr


@pytest.mark.parametrize("given", [b"work\n", b"silence"])
def test_who_expects_no_answer_is_told_of_none(gateway: GatewayProcess, given: bytes) -> None:
    done = connect("--binary", "--linger", "0", gateway.url("/deaf"), given=given)
    assert (done.returncode, done.stderr) == (0, b"")


# --- a mistake that would go unnoticed ----------------------------------------------------------------------------


def test_a_binary_service_is_told_of_where_binary_was_forgotten(gateway: GatewayProcess) -> None:
    done = connect(gateway.url("/lines"), given=b"one\n")
    assert done.stdout == b"hello\n\n"
    assert b"the service sends binary messages" in done.stderr
    assert b"--binary" in done.stderr
    assert connect("--binary", gateway.url("/lines"), given=b"one\n").stdout == b"hello\nyou said one\n"


def test_a_service_that_waits_for_the_ends_of_our_lines_is_told_of(gateway: GatewayProcess) -> None:
    done = connect(gateway.url("/whole"), given=b"PING\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"nothing came back" in done.stderr
    assert b"--binary" in done.stderr
    done = connect("--binary", gateway.url("/whole"), given=b"PING\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"PING\n", b"")
    done = connect("--linger", "0", gateway.url("/whole"), given=b"PING\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("given", [b"half a line, without its end", b"\xff\xfe\x00"])
def test_an_end_over_input_that_was_held_back_is_a_failure(gateway: GatewayProcess, given: bytes) -> None:
    """As ssh sees it: what it says first has no line end, so it would never leave."""
    with subprocess.Popen(
        [*COMMAND, gateway.url("/brief")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(given)
        process.stdin.flush()
        assert process.wait(PATIENCE_SECONDS) == 1
        words = f"the connection ended over {len(given)} bytes of the input that have no line end"
        assert words.encode() in process.stderr.read()
        process.stdin.close()


def test_an_output_that_is_closed_from_the_start_is_no_socket(gateway: GatewayProcess) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", *COMMAND, "--binary", gateway.url("/lines")],
        input=b"one\n",
        stderr=subprocess.PIPE,
        check=False,
        timeout=PATIENCE_SECONDS,
        cwd=REPOSITORY,
    )
    assert (done.returncode, done.stderr) == (1, b"")


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_with_1000(number: signal.Signals) -> None:
    codes: list[int | None] = []

    async def echo(server: ServerConnection) -> None:
        async for message in server:
            await server.send(message)
        codes.append(server.close_code)

    with (
        running(echo) as url,
        subprocess.Popen(
            [*HEEDING, *COMMAND, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"a\n"
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == 128 + number
        assert process.stderr.read() == b""
    assert codes == [1000]


def test_nohup_means_what_it_says() -> None:
    with (
        running() as url,
        subprocess.Popen(
            ["nohup", *COMMAND, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for text in (b"before\n", b"behind\n"):
            process.stdin.write(text)
            process.stdin.flush()
            assert process.stdout.readline() == text
            process.send_signal(signal.SIGHUP)
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0


# --- as ssh's ProxyCommand ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ssh_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host key and a user's key."""
    folder = tmp_path_factory.mktemp("ssh")
    keygen = need("ssh-keygen", "openssh-client")
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    return folder


@contextmanager
def ssh_server(folder: Path) -> Iterator[int]:
    """A real sshd for the user who runs the tests; its port."""
    port = free_port()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it keeps its unprivileged half; a plain user's has none
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "prohibit-password",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    command = [need("sshd", "openssh-server"), "-D", "-e", "-f", str(folder / "sshd_config")]
    with ServiceProcess(command, name="sshd", started=r"Server listening"):
        yield port


def test_ssh_leaves_nothing_unknown_behind(ssh_folder: Path) -> None:
    """OpenSSH ends its ProxyCommand with SIGHUP, as soon as it has what it wants."""
    with (
        ssh_server(ssh_folder) as port,
        GatewayProcess({"routes": [route("ssh", "/ssh", f"tcp://127.0.0.1:{port}")]}) as gateway,
    ):
        proxy = f"{sys.executable} -m gateway connect --binary {gateway.url('/ssh')}"
        options = {
            "ProxyCommand": proxy,
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "IdentityFile": str(ssh_folder / "user"),
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
        }
        command = [*HEEDING, need("ssh", "openssh-client"), "-F", "none"]
        command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        for _ in range(3):
            done = subprocess.run(
                [*command, "gateway.invalid", "head -c 300000 /dev/zero; cat"],
                input=b"x" * 200_000,
                capture_output=True,
                check=False,
                timeout=PATIENCE_SECONDS,
                cwd=REPOSITORY,
            )
            assert (done.returncode, done.stderr) == (0, b"")
            assert done.stdout == bytes(300_000) + b"x" * 200_000
        while len([event for event in gateway.events if event.get("event") == "session_ended"]) < 3:
            gateway.wait_for_event("session_ended")
        unknown = gateway.metrics().value("kakitome_unknown_messages_total")
        ends = [event for event in gateway.events if event.get("event") == "session_ended"]
    assert [end["code"] for end in ends] == [1000] * 3, ends
    assert unknown == 0, ends
