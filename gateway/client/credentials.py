"""What a client shows to be let in: text that stays, or a function that gets a fresh one whenever it is asked for.

Invariant: a credential stands in no text of an error and in no event.
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from gateway.client.faults import CredentialFailed

Credential: TypeAlias = str | Callable[[], Awaitable[str]]


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
    return shown
