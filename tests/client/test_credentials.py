"""What a client shows: text that has UTF-8, told of at once where it has none."""

import pytest

from gateway.client import CredentialFailed, open_session
from gateway.client.credentials import obtain
from tests.client.runtimes import on_both_runtimes

HALF = "half \ud83d"


@on_both_runtimes
async def test_half_of_a_surrogate_pair_is_refused_before_anything_is_dialed() -> None:
    with pytest.raises(ValueError, match=r"^token has half of a surrogate pair in it, expected text that has UTF-8$"):
        async with open_session("ws://127.0.0.1:9/", token=HALF):
            pass


@on_both_runtimes
async def test_a_function_that_gives_one_is_told_of_as_one_that_gives_no_text() -> None:
    async def give() -> str:
        return HALF

    with pytest.raises(CredentialFailed, match=r"^what the token function returned has half of a surrogate pair in it"):
        await obtain(give, timeout_seconds=5)


@on_both_runtimes
async def test_text_is_shown_as_it_is() -> None:
    assert await obtain("日本", timeout_seconds=5) == "日本"
