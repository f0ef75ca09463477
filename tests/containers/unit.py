"""Proof of the systemd unit: systemd itself starts, confines, reloads, restarts and stops the gateway.

Its machine is a container whose process 1 is systemd, allowed what systemd needs to confine others.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.containers.engine import EngineFailed, build, docker, wait_until
from tests.support.certificates import Certificates
from tests.support.tools import REPOSITORY

HERE: Final = Path(__file__).parent
MACHINE: Final = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined"),
    *("--security-opt", "apparmor=unconfined", "--network", "none", "--tmpfs", "/run", "--tmpfs", "/tmp"),
    *("--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup"),
    # As on a bare machine; engines let everybody have these ports.
    *("--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"),
)

ROUTES: Final = 'routes: [{name: echo, backend: {endpoints: ["tcp://127.0.0.1:7"], health: null}}]\n'
PLAIN: Final = "listeners: [{bind: 0.0.0.0:8080}]\n" + ROUTES

DROP_IN_CONFIGS: Final[Mapping[str, str]] = {
    "CAP_NET_BIND_SERVICE": "listeners: [{bind: 0.0.0.0:80}]\n" + ROUTES,
    "ssl-cert": "listeners: [{bind: 0.0.0.0:8443, tls: {certificate: tls.crt, key: tls.key}}]\n" + ROUTES,
    "LoadCredential": PLAIN + 'admin: {token: "file:${CREDENTIALS_DIRECTORY}/admin-token"}\n',
    "Environment": PLAIN + 'log: {level: "${LOG_LEVEL}"}\n',
}
"""For each drop-in of the docs, by a word in it: a configuration that does not start without it."""


def prove_unit(tag: str, folder: Path) -> dict[str, Any]:
    """Runs deploy/systemd/kakitome.service, then with each drop-in of its docs. The image `tag` must be there."""
    image = f"{tag}-systemd"
    build(image, HERE / "systemd.Dockerfile", HERE, "--build-arg", f"IMAGE={tag}")
    Certificates.issue(folder)
    with Machine.boot(image, folder) as machine:
        machine.prove_life()
        drop_ins = drop_ins_of_the_docs()
        assert drop_ins.keys() == DROP_IN_CONFIGS.keys(), drop_ins
        for word, drop_in in drop_ins.items():
            machine.prove_drop_in(drop_in, DROP_IN_CONFIGS[word])
    return {"drop_ins": len(drop_ins)}


def drop_ins_of_the_docs() -> dict[str, str]:
    """Each ini block of docs/deployment-systemd.md, by the word of `DROP_IN_CONFIGS` that it has."""
    text = (REPOSITORY / "docs/deployment-systemd.md").read_text()
    blocks = re.findall(r"^```ini\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {next((word for word in DROP_IN_CONFIGS if word in block), block): block for block in blocks}


class Machine:
    """A container that was booted with systemd."""

    def __init__(self, name: str) -> None:
        self._name = name

    @classmethod
    @contextmanager
    def boot(cls, image: str, folder: Path) -> Iterator["Machine"]:
        """Boots with the unit, and with the files of `folder` in /etc/kakitome; ssl-cert may read the key."""
        name = f"kakitome-test-{os.getpid()}-systemd"
        try:
            docker("run", "--detach", "--name", name, *MACHINE, image)
            machine = cls(name)
            wait_until(machine._is_running, "systemd has booted")
            docker("cp", REPOSITORY / "deploy/systemd/kakitome.service", f"{name}:/etc/systemd/system/")
            docker("cp", f"{folder}/.", f"{name}:/etc/kakitome")
            machine.shell(
                "cd /etc/kakitome && chown -R root:root . && chmod 755 . && chmod 644 ca.pem tls.crt"
                " && chgrp ssl-cert tls.key && chmod 640 tls.key && umask 077 && echo secret > admin-token"
            )
            yield machine
        finally:
            docker("rm", "--force", "--volumes", name)

    def _is_running(self) -> str | None:
        try:
            return self.shell("systemctl is-system-running --wait")
        except EngineFailed:
            return None  # its bus is not there yet

    def shell(self, command: str) -> str:
        return docker("exec", self._name, "sh", "-c", command)

    def configure(self, config: str) -> None:
        self.shell(f"cat > /etc/kakitome/kakitome.yaml <<'END'\n{config}END\nchmod 644 /etc/kakitome/kakitome.yaml")

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.shell(f"systemctl show --property {name} --value kakitome")

    def journal(self) -> str:
        return self.shell("journalctl --unit kakitome --output cat --no-pager")

    def wait_until_it_answers(self) -> None:
        def look() -> str | None:
            if self.show("ActiveState") == "failed":
                raise EngineFailed(self.journal()[-4000:])
            try:
                return self.shell("kakitome probe")
            except EngineFailed:
                return None

        wait_until(look, "the service answers")

    def prove_life(self) -> None:
        """It starts confined, reloads, is started again after a crash, stops with 0, and gives up on faults at once."""
        self.configure(PLAIN)
        self.shell("systemctl daemon-reload && systemctl start kakitome")
        self.wait_until_it_answers()
        self._check_confinement()

        self.configure(PLAIN.replace("echo", "reloaded"))
        self.shell("systemctl reload kakitome")
        wait_until(lambda: '"routes":["reloaded"]' in self.journal() or None, "the reload is applied")

        crashed = self.show("MainPID")
        self.shell(f"kill -KILL {crashed}")
        wait_until(lambda: self.show("NRestarts") == "1" or None, "systemd starts it again")
        self.wait_until_it_answers()
        assert self.show("MainPID") != crashed

        self._stop()
        self.configure("listeners: []\n")
        self.shell("systemctl start kakitome || true")  # Type=exec: a start is good once the program runs
        wait_until(lambda: self.show("ActiveState") == "failed" or None, "it gives up on a faulty configuration")
        assert (self.show("ExecMainStatus"), self.show("NRestarts")) == ("2", "0")
        assert "kakitome.yaml:1: listeners: " in self.journal()
        self.shell("systemctl reset-failed kakitome")

    def prove_drop_in(self, drop_in: str, config: str) -> None:
        """With the drop-in the configuration works; without it, it does not."""
        self.configure(config)
        self.shell("systemctl start kakitome || true")
        wait_until(self._has_failed, "it fails without the drop-in")
        self.shell(
            "systemctl stop kakitome; systemctl reset-failed kakitome; mkdir -p /etc/systemd/system/kakitome.service.d"
            f" && cat > /etc/systemd/system/kakitome.service.d/override.conf <<'END'\n{drop_in}END\n"
            "systemctl daemon-reload && systemctl start kakitome"
        )
        self.wait_until_it_answers()
        self._stop()
        self.shell("rm -r /etc/systemd/system/kakitome.service.d && systemctl daemon-reload")

    def _has_failed(self) -> str | None:
        """Once at least: it may be about to try again."""
        return "failed" if (self.show("ActiveState"), self.show("NRestarts")) != ("active", "0") else None

    def _stop(self) -> None:
        self.shell("systemctl stop kakitome")
        state = tuple(self.show(name) for name in ("ActiveState", "Result", "ExecMainStatus"))
        assert state == ("inactive", "success", "0"), f"{state}\n{self.journal()[-4000:]}"

    def _check_confinement(self) -> None:
        """A user of its own without any capability, under seccomp, that sees a read-only system."""
        pid = self.show("MainPID")
        status = dict(line.split(":", 1) for line in self.shell(f"cat /proc/{pid}/status").splitlines())
        assert "0" not in status["Uid"].split() + status["Gid"].split(), status
        assert all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")), status
        assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2"), status
        mounts = [line.split() for line in self.shell(f"cat /proc/{pid}/mountinfo").splitlines()]
        options = {fields[4]: fields[5].split(",") for fields in mounts}
        assert "ro" in options["/"], mounts
        assert "rw" in options["/run/kakitome"], mounts
