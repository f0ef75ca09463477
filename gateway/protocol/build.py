"""Which forms of the data path this installation has: `compiled` or `pure` codec, `compiled` or `interpreted` rest.

What is installed is compiled where a C compiler was at hand (see setup.py). Where it was not, everything works and a
message costs several times the CPU: whoever runs that is told so, by `kakitome --version` and at each start.
"""

from typing import Final

from gateway.protocol import ledger
from gateway.protocol.frames import CODEC

DATA_PATH: Final = "interpreted" if ledger.__file__.endswith(".py") else "compiled"
"""`interpreted` in a checkout, where compiled modules would hide what is changed."""

SLOW: Final = (CODEC, DATA_PATH) != ("compiled", "compiled")
"""Not all of what can be compiled is."""

HINT: Final = (
    "not all of the data path is compiled, so that a message costs several times the CPU: install Kakitome, not as a "
    "checkout, with a C compiler and Python's headers at hand"
)
"""What to do about a slow form."""

__all__ = ["CODEC", "DATA_PATH", "HINT", "SLOW"]
