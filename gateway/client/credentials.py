"""What a client shows to be let in: text that stays, or a function that gets a fresh one whenever it is asked for.

Invariant: a credential stands in no text of an error and in no event.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from gateway.client.faults import CredentialFailed

Credential: TypeAlias = str | Callable[[], Awaitable[str]]


ILL_FORMED: Final = "has half of a surrogate pair in it, expected text that has UTF-8"


def check(credential: Credential | None) -> None:
    """Raises ValueError for a text that no gateway could read."""
    if isinstance(credential, str) and not _is_well_formed(credential):
        raise ValueError(f"token {ILL_FORMED}")


def _is_well_formed(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def obtain(credential: Credential | None, *, timeout_seconds: float) -> str | None:
    """The credential to be shown now; None where there is none. Raises CredentialFailed."""
    if credential is None or isinstance(credential, str):
        return credential
    try:
        with anyio.fail_after(timeout_seconds):
            shown = await credential()
    except TimeoutError as timeout:
        raise CredentialFailed(f"no credential was to be had within {timeout_seconds:g} s") from timeout
    except Exception as error:
        raise CredentialFailed(f"no credential was to be had: {type(error).__name__}") from error
    if not isinstance(shown, str):
        raise CredentialFailed(f"the token function returned {type(shown).__name__}, expected str")
    if not _is_well_formed(shown):
        raise CredentialFailed(f"what the token function returned {ILL_FORMED}")
    return shown
