"""Builds what is compiled; everything else is declared in pyproject.toml.

The frame codec and the calls of sockets are written in Cython, with twins in Python. The data path is Python, and mypyc
compiles it from the same sources. All of it is compiled where a C compiler and Python's headers are at hand; without
them the installation goes on, and the gateway says at its start that it is the slow form. `KAKITOME_COMPILE` in the
environment: `1` makes a failure an error, `0` leaves the data path interpreted.

The data path is one unit: calls between its modules are C calls, and one module without the others could not even be
imported. So it is compiled aside and put in place when all of it is there, or not at all.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

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
    "relay/keepalive",
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
    "relay/throttle",
    "relay/timers",
    "relay/tls_endpoint",
    "relay/traffic",
    "relay/vitals",
    "relay/websocket_side",
    "telemetry/metrics",
)

wanted = os.environ.get("KAKITOME_COMPILE") or "auto"
if wanted not in ("0", "1", "auto"):
    sys.exit(f"KAKITOME_COMPILE is {wanted!r}: 1 (all of it or an error), 0 (not the data path) or unset was expected")
must = wanted == "1"


class Build(build):
    """Builds into an empty place: what an earlier build left would be installed as if it were of these sources."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib, "gateway"), ignore_errors=True)
        for left in Path(self.build_lib).glob("kakitome__mypyc.*"):
            left.unlink()
        super().run()


class BuildExtensions(build_ext):
    """Builds the Cython modules, and with a compiler that is so found to work, the data path."""

    def run(self) -> None:
        super().run()
        # Beside the sources, compiled modules would hide every change of them: not there.
        if wanted == "0" or self.editable_mode or self.inplace:
            return
        if not all(Path(self.get_ext_fullpath(extension.name)).exists() for extension in self.extensions):
            self.warn("the data path stays interpreted: there is no C compiler that works, or no Python.h")
            return
        try:
            self._compile_data_path(Path(self.build_temp, "data_path"))
        except (ImportError, BaseError, CCompilerError, SystemExit) as problem:  # mypyc exits where it finds faults
            if must:
                raise
            self.warn(f"the data path stays interpreted: {problem!r}")

    def _compile_data_path(self, folder: Path) -> None:
        """Compiles all of it in `folder`, then copies what was made to the other modules."""
        from mypyc.build import mypycify

        shutil.rmtree(folder, ignore_errors=True)
        # Types are judged by `make types`. Here they only steer the compiler, and what is imported from others need
        # not be installed: it is Any. No configuration file is read.
        flags = [
            "--config-file=",
            "--ignore-missing-imports",
            "--follow-imports=silent",
            f"--cache-dir={folder / 'mypy'}",
        ]
        sources = [f"gateway/{module}.py" for module in DATA_PATH]
        made = mypycify(
            [*flags, *sources], opt_level="3", debug_level="0", group_name="kakitome", target_dir=str(folder / "c")
        )
        unit = Distribution({"name": "kakitome-data-path", "ext_modules": made}).get_command_obj("build_ext")
        unit.build_lib, unit.build_temp, unit.force = str(folder / "lib"), str(folder / "temp"), True
        unit.ensure_finalized()
        unit.run()
        shutil.copytree(folder / "lib", self.build_lib, dirs_exist_ok=True)


setup(
    cmdclass={"build": Build, "build_ext": BuildExtensions},
    ext_modules=[
        Extension(
            f"gateway.{module.replace('/', '.')}",
            [f"gateway/{module}.pyx"],
            # -g0: Python's own flags ask for debugging information, which would be half of what is installed.
            extra_compile_args=["-O3", "-g0"],
            optional=not must,
        )
        for module in ("protocol/_frames", "relay/_sockets")
    ],
)
