"""The command as a process: faults of the start that only the kernel can tell, and the demonstration."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import START_SECONDS, STOP_SECONDS, ServiceProcess

KAKITOME = [sys.executable, "-m", "gateway"]


def run(*arguments: str) -> tuple[int, list[str]]:
    """Exit status, and the lines of standard error that are not the log's."""
    result = subprocess.run([*KAKITOME, *arguments], capture_output=True, text=True, timeout=START_SECONDS, check=False)
    return result.returncode, [line for line in result.stderr.splitlines() if not line.startswith("{")]


def config_at(folder: Path, *, bind: str = "127.0.0.1:0", admin: str = "127.0.0.1:0") -> str:
    path = folder / "kakitome.yaml"
    path.write_text(
        f"listeners:\n  - bind: {bind}\nadmin: {{bind: '{admin}'}}\nroutes:\n  - {{name: pages, files: .}}\n"
    )
    return str(path)


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("key", ["bind", "admin"])
def test_an_address_in_use_is_one_line_and_status_1(tmp_path: Path, taken: str, key: str) -> None:
    status, lines = run("serve", "--config", config_at(tmp_path, **{key: taken}))
    assert (status, len(lines)) == (1, 1)
    assert re.match(rf"kakitome: .*{re.escape(taken)}.* in use", lines[0])


def test_a_socket_in_a_folder_that_is_not_there_is_one_line_and_status_1(tmp_path: Path) -> None:
    status, lines = run("serve", "--config", config_at(tmp_path, bind="unix:none/k.sock"))
    assert (status, len(lines)) == (1, 1)
    assert re.match(rf"kakitome: .*{re.escape(str(tmp_path))}/none/k\.sock", lines[0])


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        argv = [*KAKITOME, "serve", "--config", config_at(tmp_path)]
        with ServiceProcess(argv, started=r'"event": ?"ready"') as service:
            limits = Path(f"/proc/{service.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert re.search(rf"^Max open files +{hard} +{hard} ", limits, re.MULTILINE), limits
    said = [entry for entry in map(json.loads, service.lines) if entry["event"] == "descriptors"]
    assert [(entry["limit"], entry["soft_limit_was"]) for entry in said] == [(hard, min(256, hard))]
    assert 0 < said[0]["kept_back"] < hard
    assert said[0]["relayed_connections"] == (hard - said[0]["kept_back"]) // 2


def test_the_demo_prints_the_url_of_its_page_serves_it_and_ends_at_ctrl_c() -> None:
    started = r"Kakitome's demonstration: (http://127\.0\.0\.1:[0-9]+) \(Ctrl-C ends it\)"
    with ServiceProcess([*KAKITOME, "demo", "--bind", "127.0.0.1:0"], name="demo", started=started) as demo:
        assert demo.started_match is not None
        with urllib.request.urlopen(demo.started_match[1], timeout=START_SECONDS) as response:
            assert response.headers["Content-Type"].startswith("text/html")
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(STOP_SECONDS) == 0


def test_a_demo_whose_address_is_in_use_says_so(taken: str) -> None:
    status, lines = run("demo", "--bind", taken)
    assert (status, len(lines)) == (1, 1)
    assert re.match(rf"kakitome: .*{re.escape(taken)}.* in use", lines[0])


# --- a configuration that can be read only once -------------------------------------------------------------------


def piped(content: bytes) -> int:
    """A descriptor from which `content` can be read once."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return reading


def test_a_configuration_from_a_pipe_is_not_read_twice(tmp_path: Path) -> None:
    text = "listeners: [{bind: 127.0.0.1:0}]\nadmin: {bind: 127.0.0.1:0, token: 'file:/dev/fd/%d'}\nroutes: [%s]\n"
    secret = piped(b"secret\n")
    config = piped((text % (secret, f"{{name: pages, files: {tmp_path}}}")).encode())
    argv = [*KAKITOME, "serve", "--config", f"/dev/fd/{config}"]
    service = ServiceProcess(argv, started=r'"event": ?"ready"', pass_descriptors=(secret, config))
    with service, contextlib.ExitStack() as stack:
        stack.callback(os.close, secret)
        stack.callback(os.close, config)
        service.send_signal(signal.SIGHUP)
        service.wait_for_line(r'"event": ?"config_not_read_again"')
        said = [json.loads(line) for line in service.lines if line.startswith("{")]
        (told,) = (entry for entry in said if entry["event"] == "config_not_read_again")
        assert set(told["paths"]) == {f"/dev/fd/{config}", f"/dev/fd/{secret}"}
        events = {entry["event"] for entry in said}
        assert "config_kept" in events
        assert not events & {"config_rejected", "config_applied"}, "nothing was read, so nothing was applied"


def test_check_reads_a_configuration_from_a_pipe(tmp_path: Path) -> None:
    text = f"listeners: [{{bind: 127.0.0.1:0}}]\nroutes: [{{name: pages, files: {tmp_path}}}]\n"
    result = subprocess.run(
        [*KAKITOME, "check", "/dev/stdin"],
        input=text,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=True,
    )
    assert result.stdout.startswith("/dev/stdin: good\n")
