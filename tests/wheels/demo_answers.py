"""Starts `kakitome demo`, sends a message through it, sees the answer; tests/wheels/run runs it on what it installed.

demo_answers.py KAKITOME
"""

import re
import subprocess
import sys

LINE = "どやさ"


def main(kakitome: str) -> None:
    """Raises unless the demonstration's hello backend answers through the gateway, which ends in order."""
    with subprocess.Popen([kakitome, "demo", "--bind", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            announced = re.search(r"http://(\S+?)/?(\s|$)", demo.stdout.readline())
            assert announced is not None, "the demonstration did not say where it is"
            done = subprocess.run(
                [kakitome, "connect", f"ws://{announced[1]}/hello"],
                input=f"{LINE}\n",
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert f"Pong: {LINE}" in done.stdout, done
        finally:
            demo.terminate()
    assert demo.returncode == 0, demo.returncode


if __name__ == "__main__":
    main(sys.argv[1])
