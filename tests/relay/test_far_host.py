"""A far host that vanishes, packets and all, is noticed and told as what it is; one that is only slow is left alone."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.tools import GATEWAY_TREE, REPOSITORY, need

NAMESPACE = ["unshare", "--net", "--map-root-user"]


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """How a command is run in a network of its own."""
    need("unshare", "apt-get install util-linux")
    need("ip", "apt-get install iproute2")
    tried = subprocess.run(
        [*NAMESPACE, "ip", "link", "add", "near", "type", "veth"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"no network namespace can be made here: {tried.stderr.strip()}")
    return NAMESPACE


def played(namespace: list[str], side: str, what: str) -> dict[str, object]:
    argv = [*namespace, sys.executable, "-P", "-m", "tests.relay.far_host", side, what]
    environment = os.environ | {"PYTHONPATH": f"{GATEWAY_TREE}:{REPOSITORY}"}
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode == 0, answer.stderr
    ending: dict[str, object] = json.loads(answer.stdout)
    return ending


def test_a_backend_that_vanishes_with_bytes_unacknowledged_is_gone(namespace: list[str]) -> None:
    assert played(namespace, "backend", "vanishes") == {
        "by": "backend",
        "code": 1014,
        "reason": "the backend's host has answered nothing for 1.5 s",
        "unknown": "vanished",
    }


def test_a_client_that_vanishes_with_bytes_unacknowledged_is_gone(namespace: list[str]) -> None:
    assert played(namespace, "client", "vanishes") == {
        "by": "client",
        "code": 1006,
        "reason": "the client's host has answered nothing for 1.5 s",
        "unknown": "vanished",
    }


@pytest.mark.parametrize("side", ["client", "backend"])
def test_a_host_that_is_there_and_takes_nothing_is_left_alone(namespace: list[str], side: str) -> None:
    assert played(namespace, side, "stays") == {"by": None}
