"""The two frame codecs, for tests that must hold for both."""

from types import ModuleType
from typing import Final

import pytest

from gateway.protocol import _frames_py

PURE: Final = _frames_py
"""Stands for either codec where types matter: their interfaces are the same."""

COMPILED: ModuleType | None
try:
    from gateway.protocol import _frames
except ImportError:
    COMPILED = None
else:
    COMPILED = _frames

BUILD: Final = "the compiled codec is not there: build it with `python setup.py build_ext --inplace`"

CODECS: Final = (
    pytest.param(PURE, id="pure"),
    pytest.param(COMPILED, id="compiled", marks=pytest.mark.skipif(COMPILED is None, reason=BUILD)),
)
