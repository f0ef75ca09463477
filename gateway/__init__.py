"""Kakitome: a WebSocket gateway that knows how far every message got."""

from typing import Final

__version__: Final = "0.1.0"
