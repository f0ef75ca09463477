"""Builds what is compiled; everything else is declared in pyproject.toml.

The frame codec and the calls of sockets are compiled where a C compiler is at hand. With `KAKITOME_COMPILE=1` in the
environment the whole data path is too, from the same Python sources, by mypyc (which comes with mypy): twice the
messages per CPU-second, for a minute or two of building. Then a failure is an error; without it nothing but those two
is tried.
"""

import os

from setuptools import Extension, setup

DATA_PATH = (
    "memory/account",
    "memory/costs",
    "protocol/fence",
    "protocol/framings",
    "protocol/ledger",
    "protocol/messages",
    "protocol/pieces",
    "relay/away",
    "relay/closing",
    "relay/ending",
    "relay/endpoint",
    "relay/evidence",
    "relay/framed_backend",
    "relay/lane",
    "relay/looking",
    "relay/pace",
    "relay/place",
    "relay/plain_client",
    "relay/ports",
    "relay/pump",
    "relay/records_backend",
    "relay/records_client",
    "relay/relay",
    "relay/retained",
    "relay/settings",
    "relay/socket_side",
    "relay/timers",
    "relay/traffic",
    "relay/websocket_side",
    "telemetry/metrics",
)

compile_data_path = os.environ.get("KAKITOME_COMPILE") == "1"

extensions = [
    # optional: without a compiler the install goes on and the pure-Python twins serve.
    Extension(
        f"gateway.{module.replace('/', '.')}",
        [f"gateway/{module}.pyx"],
        # -g0: Python's own flags ask for debugging information, which would be half of what is installed.
        extra_compile_args=["-O3", "-g0"],
        optional=not compile_data_path,
    )
    for module in ("protocol/_frames", "relay/_sockets")
]
if compile_data_path:
    from mypyc.build import mypycify

    # One group: calls between its modules are C calls.
    sources = [f"gateway/{module}.py" for module in DATA_PATH]
    extensions += mypycify(sources, opt_level="3", debug_level="0", group_name="kakitome")

setup(ext_modules=extensions)
