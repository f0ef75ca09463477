"""Proof of the image: built from the Dockerfile, locked down, talked to over ws and wss, stopped in order."""

import json
import os
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from gateway import __version__
from tests.containers.engine import EngineFailed, build, docker, drain_seconds, inspect, published, python, wait_healthy
from tests.containers.talk import Crowd, converse
from tests.support.certificates import Certificates
from tests.support.gateway import Metrics
from tests.support.tools import REPOSITORY

LOCKED_DOWN: Final = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
UID: Final = 65532
DRAIN_SECONDS: Final = 8
CONNECTIONS: Final = 40

CONFIG: Final = f"""\
listeners:
  - bind: 0.0.0.0:8080
  - bind: 0.0.0.0:8443
    tls: {{certificate: tls.crt, key: tls.key}}
routes:
  - name: hello
    match: {{path: /hello}}
    backend: {{endpoints: ["tcp://backends:9001"], framing: records}}
timeouts: {{drain: {DRAIN_SECONDS}s}}
"""

STATUS: Final = """\
import json, os
fields = dict(line.split(":", 1) for line in open("/proc/1/status"))
wanted = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")
print(json.dumps({name: fields[name].split() for name in wanted}))
"""

LEFT_OF_THE_BUILD: Final = """\
import importlib.util, pathlib
for name in ("Cython", "mypy", "mypyc", "setuptools"):
    if importlib.util.find_spec(name):
        print(name)
for suffix in ("c", "o", "pyx"):
    print(*pathlib.Path("/opt/kakitome").rglob(f"*.{suffix}"), sep="\\n", end="")
"""

WRITE: Final = """\
import errno, pathlib
for folder in ("/", "/tmp", "/etc/kakitome", "/opt/kakitome", "/var/lib/kakitome"):
    try:
        pathlib.Path(folder, "probe").touch()
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.EACCES), error
    else:
        raise SystemExit(f"{folder} can be written to")
"""


def prove_image(tag: str, base: str, folder: Path) -> dict[str, Any]:
    """Builds `tag` on `base` and runs all of it; returns what was measured. `folder` is for configuration files."""
    numbers: dict[str, Any] = {}
    started = time.monotonic()
    labels = ["--build-arg", f"BASE={base}", "--build-arg", "REVISION=tested"]
    build(tag, REPOSITORY / "Dockerfile", REPOSITORY, *labels)
    numbers["build_seconds"] = round(time.monotonic() - started)
    numbers["image_bytes"] = _check_metadata(tag, base)
    numbers["base_bytes"] = inspect("image", base)["Size"]
    _check_refusals(tag)
    numbers |= _run_locked_down(tag, folder)
    return numbers


def _check_metadata(tag: str, base: str) -> int:
    """What the image says of itself; returns its size."""
    found = inspect("image", tag)
    config = found["Config"]
    assert config["User"] == f"{UID}:{UID}", config["User"]
    # Lists, not strings: nothing is run by a shell.
    assert (config["Entrypoint"], config["Cmd"]) == (["kakitome"], ["serve"])
    assert config["Healthcheck"]["Test"] == ["CMD", "kakitome", "probe"]
    assert set(config["ExposedPorts"]) == {"8080/tcp", "8443/tcp", "9090/tcp"}
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert (labels["version"], labels["revision"], labels["base.name"]) == (__version__, "tested", base), labels
    run = ("run", "--rm", "--network", "none")
    assert f"kakitome {__version__} (compiled codec, compiled data path" in docker(*run, tag, "--version")
    left = docker(*run, "--entrypoint", "python", tag, "-c", LEFT_OF_THE_BUILD)
    assert not left, f"the image holds what only its build needs: {left}"
    size: int = found["Size"]
    return size


def _check_refusals(tag: str) -> None:
    """Without a configuration, and with a faulty one, it ends with words and not with a traceback."""
    run = ("run", "--rm", "--network", "none", *LOCKED_DOWN, tag)
    for arguments, words in (
        ((), "ended with 1:\nkakitome: /etc/kakitome/kakitome.yaml: there is no such file"),
        (("check", "/etc/passwd"), "ended with 2:\n/etc/passwd:"),
    ):
        with pytest.raises(EngineFailed, match=re.escape(words)) as failure:
            docker(*run, *arguments)
        assert "Traceback" not in str(failure.value), failure.value


def _run_locked_down(tag: str, folder: Path) -> dict[str, Any]:
    certificates = Certificates.issue(folder)
    (folder / "kakitome.yaml").write_text(CONFIG)
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)  # the container's user is none of this machine's
    run = f"kakitome-test-{os.getpid()}"
    with ExitStack() as stack:
        network = f"{run}-network"
        docker("network", "create", network)
        stack.callback(docker, "network", "rm", network)
        backends, gateway = f"{run}-backends", f"{run}-gateway"

        common = ["run", "--detach", "--network", network, *LOCKED_DOWN]
        stack.callback(_remove, backends)
        demo = ["--no-healthcheck", "--entrypoint", "python", tag, "-m", "gateway.demo", "--host", "0.0.0.0"]
        docker(*common, "--name", backends, "--network-alias", "backends", *demo)

        stack.callback(_remove, gateway)
        ports = ["--publish", "127.0.0.1::8080", "--publish", "127.0.0.1::8443"]
        started = time.monotonic()
        docker(*common, "--name", gateway, *ports, "--volume", f"{folder}:/etc/kakitome:ro", tag)
        wait_healthy(gateway)
        healthy_seconds = time.monotonic() - started

        _check_confinement(gateway)
        ws = f"ws://127.0.0.1:{published(gateway, 8080)}"
        wss = f"wss://localhost:{published(gateway, 8443)}"
        converse(ws)
        converse(wss, certificates.client_context())
        exposition = python(
            gateway, "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/metrics').read().decode())"
        )
        assert Metrics.parse(exposition).value("kakitome_messages_total", route="hello", direction="upstream") == 6
        stop_seconds = _stop(gateway, ws, wss, certificates)
    return {
        "healthy_seconds": round(healthy_seconds, 1),
        "stop_seconds": round(stop_seconds, 1),
        "drain_seconds": DRAIN_SECONDS,
        "connections": CONNECTIONS,
    }


def _check_confinement(container: str) -> None:
    """Process 1 is the gateway itself, nobody's user, without a capability, under seccomp, and can write nowhere."""
    status = json.loads(python(container, STATUS))
    assert set(status["Uid"]) == set(status["Gid"]) == {str(UID)}, status
    assert all(int(status[name][0], 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd")), status
    assert status["NoNewPrivs"] == ["1"], status
    # An engine may have been built without seccomp; where it has it, the default profile applies.
    if "seccomp" in docker("info", "--format", "{{.SecurityOptions}}"):
        assert status["Seccomp"] == ["2"], status
    python(container, WRITE)
    command = python(container, "print(open('/proc/1/cmdline').read().split(chr(0)))")
    assert "/opt/kakitome/bin/kakitome" in command, command
    assert "/sh" not in command, command


def _stop(container: str, ws: str, wss: str, certificates: Certificates) -> float:
    """SIGTERM with clients connected: each is closed with 1012, the status is 0; returns the seconds it took."""
    half = CONNECTIONS // 2
    with Crowd(ws, half) as plain, Crowd(wss, half, certificates.client_context()) as encrypted:
        docker("stop", "--time", str(DRAIN_SECONDS + 10), container)
        codes = plain.join() + encrypted.join()
    state = inspect("container", container)["State"]
    assert state["ExitCode"] == 0, f"{state}\n{docker('logs', container)[-4000:]}"
    assert codes == [1012] * CONNECTIONS, codes
    seconds = drain_seconds(container)
    assert seconds < DRAIN_SECONDS, f"stopped after {seconds:.1f} s, with a drain window of {DRAIN_SECONDS} s"
    return seconds


def _remove(container: str) -> None:
    docker("rm", "--force", "--volumes", container)
