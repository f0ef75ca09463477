"""What an application may send, and with which codes it may refuse or end, at either end of a session."""

from typing import Final, TypeAlias

from gateway.codes import MAX_CODE, MIN_CODE

Data: TypeAlias = str | bytes
"""A message: text or binary."""

MAX_REJECT_REASON_BYTES: Final = 1024


def encoded(message: Data) -> tuple[bool, bytes]:
    """Whether a message is text, and its payload. Raises TypeError for what is no message."""
    if isinstance(message, str):
        return True, message.encode()
    if not isinstance(message, bytes | bytearray | memoryview):
        raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
    return False, bytes(message)


def check_code(code: int) -> None:
    """Raises ValueError for a code that neither CLOSE nor REJECT may carry."""
    if not MIN_CODE <= code <= MAX_CODE:
        raise ValueError(f"code {code}, expected {MIN_CODE} to {MAX_CODE}")
