"""Which forms of the data path this installation has: `compiled` or `pure` codec, `compiled` or `interpreted` rest."""

from typing import Final

from gateway.protocol import ledger
from gateway.protocol.frames import CODEC

DATA_PATH: Final = "interpreted" if ledger.__file__.endswith(".py") else "compiled"
"""`compiled` where the package was built with KAKITOME_COMPILE=1 (see setup.py)."""

__all__ = ["CODEC", "DATA_PATH"]
