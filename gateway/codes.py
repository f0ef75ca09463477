"""The codes of ends: those of RFC 6455 section 7.4.1 and of IANA's registry that we say or understand, and our own.

Invariant: a code has one name in the whole tree, and stands as a number only here.
"""

from typing import Final

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED: Final = 1003
"""Data of a kind that is not taken."""
NO_CODE: Final = 1005
"""Stands for a Close that had none, and for codes that had no room; never sent in a Close frame."""
ABNORMAL: Final = 1006
"""Stands for a peer that went without a word; never sent in a Close frame."""
INVALID_TEXT: Final = 1007
POLICY: Final = 1008
TOO_BIG: Final = 1009
INTERNAL: Final = 1011
RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
BAD_GATEWAY: Final = 1014

UNAUTHORIZED: Final = 3000
"""The counterpart of 401."""
FORBIDDEN: Final = 3003
"""The counterpart of 403."""

SUPERSEDED: Final = 4001
"""`kakitome.v1`: a newer connection has the session; ends the connection, not the session."""
SESSION_LOST: Final = 4004
"""`kakitome.v1`: a session is not known where it was to be gone on with."""

MIN_CODE: Final = 1000
MAX_CODE: Final = 4999
"""What an application may say, and what stands for it."""

BEGUN_ANEW: Final = frozenset({INTERNAL, RESTART, TRY_AGAIN_LATER, BAD_GATEWAY})
"""Codes that nobody meant: upon them a client that can come back begins a new session by itself."""
