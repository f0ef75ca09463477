"""`python -m tests.relay.far_host CASE`: a relay whose client or backend is on a host of its own, which can vanish.

To be run in a network namespace; the far host is a namespace within it, behind a pair of virtual interfaces. Prints one
JSON object that says how the session ended, or that it has not.
"""

import json
import socket
import subprocess
import sys
import time

from gateway.relay.settings import RelaySettings
from tests.relay.harness import Scene
from tests.relay.sockets import tcp_pair

NEAR, FAR = "10.213.0.1", "10.213.0.2"
UNHEARD_SECONDS = 1.5
LONG_SECONDS = 4 * UNHEARD_SECONDS
"""Of which nobody could say that the host was given up too soon."""

PEER = """
import socket, time
listener = socket.create_server(("{far}", 9000))
print("listening", flush=True)
sock, _ = listener.accept()
time.sleep(3600)
"""


class FarHost:
    """A namespace with a process that accepts one connection and reads nothing of it."""

    def __init__(self) -> None:
        argv = ["unshare", "--net", "sh", "-c", "echo here; exec sleep 3600"]
        self._holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self._inside = ["nsenter", f"--target={self._holder.pid}", "--net"]
        run("ip link set lo up")
        run("ip link add near type veth peer name far")
        run(f"ip link set far netns {self._holder.pid}")
        run(f"ip address add {NEAR}/24 dev near")
        run("ip link set near up")
        self._run(f"ip address add {FAR}/24 dev far")
        self._run("ip link set far up")
        argv = [*self._inside, sys.executable, "-c", PEER.format(far=FAR)]
        self._peer = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self._peer.stdout is not None
        self._peer.stdout.readline()

    def connect(self) -> socket.socket:
        """A connection to it; which of the two began it makes no difference here."""
        sock = socket.create_connection((FAR, 9000), timeout=10)
        sock.setblocking(False)
        return sock

    def vanish(self) -> None:
        """From now on it hears everything and answers nothing."""
        self._run(f"ip route add blackhole {NEAR}/32")

    def close(self) -> None:
        for process in (self._peer, self._holder):
            process.kill()
            process.wait()

    def _run(self, command: str) -> None:
        subprocess.run([*self._inside, *command.split()], check=True)


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def scene_with(far: FarHost, side: str) -> Scene:
    """A scene at the machine's own time, one of whose peers is far away."""

    def pair() -> tuple[socket.socket, socket.socket]:
        return far.connect(), socket.socketpair()[0]

    return Scene(
        settings=RelaySettings(unheard_seconds=UNHEARD_SECONDS, keepalive_seconds=None),
        now=time.monotonic(),
        client_pair=pair if side == "client" else tcp_pair,
        backend_pair=pair if side == "backend" else tcp_pair,
    )


def outcome(scene: Scene) -> dict[str, object]:
    """Lets real time pass until the session has ended, but not for ever; how it ended."""
    end = time.monotonic() + LONG_SECONDS
    while time.monotonic() < end and scene.relay.is_open:
        scene.pass_time(time.monotonic() - scene.now)
        time.sleep(0.02)
    ending = scene.relay.ending
    if ending is None:
        return {"by": None}
    return {"by": ending.by, "code": ending.code, "reason": ending.reason, "unknown": ending.unknown}


def play(side: str, *, vanishes: bool) -> dict[str, object]:
    """A session whose `side` is far away: its host vanishes, or is there and its application reads nothing."""
    far = FarHost()
    try:
        scene = scene_with(far, side)

        def send() -> None:
            if side == "backend":
                scene.browser.binary(bytes(1000))
            else:
                scene.service.sock.sendall(bytes(1000))

        send()
        scene.settle()
        if vanishes:
            far.vanish()
            send()
        else:
            scene.flood(send)
        return outcome(scene)
    finally:
        far.close()


if __name__ == "__main__":
    print(json.dumps(play(sys.argv[1], vanishes=sys.argv[2] == "vanishes")))  # noqa: T201 -- what it is for
