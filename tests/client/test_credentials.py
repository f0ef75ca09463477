"""What a client shows to be let in: text that has UTF-8, had in time or told of, and in no text of an error."""

import traceback

import anyio
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


@on_both_runtimes
async def test_text_stays_and_a_function_is_asked_each_time() -> None:
    given = iter(["first", "second"])

    async def fresh() -> str:
        return next(given)

    assert await obtain(None, timeout_seconds=1) is None
    assert await obtain("as it is", timeout_seconds=1) == "as it is"
    assert [await obtain(fresh, timeout_seconds=1) for _ in range(2)] == ["first", "second"]


@on_both_runtimes
async def test_one_that_does_not_come_is_waited_for_no_longer() -> None:
    was_cancelled = []

    async def never() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            was_cancelled.append(True)
        return ""

    with pytest.raises(CredentialFailed, match=r"within 0\.01 s"):
        await obtain(never, timeout_seconds=0.01)
    assert was_cancelled


@on_both_runtimes
async def test_a_function_that_fails_is_told_by_its_kind_and_not_by_its_words() -> None:
    async def broken() -> str:
        raise LookupError("no such user: s3cret")

    with pytest.raises(CredentialFailed) as caught:
        await obtain(broken, timeout_seconds=1)
    assert str(caught.value) == "no credential was to be had: LookupError"
    assert isinstance(caught.value.__cause__, LookupError), "for whoever debugs it"
    assert "s3cret" in "".join(traceback.format_exception(caught.value))


@on_both_runtimes
async def test_what_is_no_text_is_told_by_its_type() -> None:
    async def odd() -> str:
        return b"s3cret"  # type: ignore[return-value]

    with pytest.raises(CredentialFailed) as caught:
        await obtain(odd, timeout_seconds=1)
    assert str(caught.value) == "the token function returned bytes, expected str"
