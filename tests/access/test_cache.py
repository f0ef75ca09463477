"""Answers that are kept for a while: asked for once, bounded, without a credential, and no failure among them."""

import pytest
import trio
import trio.testing

from gateway.access.cache import AnswerCache, digest


def test_a_digest_tells_parts_apart_however_they_are_cut() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab") != digest("ab", "")
    assert digest("ab", "c") == digest("ab", "c")
    assert digest("caf\udce9") != digest("cafe"), "bytes that are no UTF-8 count too"
    assert b"ab" not in digest("ab" * 100)


class Source:
    """Answers with how often it was asked, after `seconds`."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.asked = 0
        self.fails = False

    async def ask(self) -> int:
        self.asked += 1
        answer = self.asked
        await trio.sleep(self.seconds)
        if self.fails:
            raise OSError("away")
        return answer


async def get(cache: AnswerCache[int], source: Source, key: bytes = b"key", *, now: float = 0.0) -> int:
    """Good for ten seconds."""
    return await cache.get(key, source.ask, now=now, good_until=lambda _: now + 10)


async def test_an_answer_is_good_until_its_time_and_not_at_it() -> None:
    cache, source = AnswerCache[int](), Source()
    assert [await get(cache, source, now=now) for now in (0.0, 9.9, 10.0, 19.9)] == [1, 1, 2, 2]


async def test_what_is_not_to_be_kept_is_asked_for_each_time() -> None:
    cache, source = AnswerCache[int](), Source()
    for until in (None, 5.0):
        for _ in range(2):
            await cache.get(b"key", source.ask, now=5.0, good_until=lambda _, until=until: until)  # type: ignore[misc]
    assert (source.asked, len(cache)) == (4, 0)


async def test_of_many_answers_the_one_that_was_not_wanted_longest_goes() -> None:
    cache, source = AnswerCache[int](most=2), Source()
    await get(cache, source, b"a")
    await get(cache, source, b"b")
    await get(cache, source, b"a")
    await get(cache, source, b"c")
    assert len(cache) == 2
    assert await get(cache, source, b"a") == 1
    assert await get(cache, source, b"b") == 4


async def test_what_several_want_at_once_is_one_question(autojump_clock: trio.testing.MockClock) -> None:
    cache, source, got = AnswerCache[int](), Source(seconds=1), []

    async def want() -> None:
        got.append(await get(cache, source))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(want)
    assert (source.asked, got) == (1, [1] * 5)


async def test_whoever_asked_and_went_leaves_the_question_to_the_next(autojump_clock: trio.testing.MockClock) -> None:
    cache, source, got = AnswerCache[int](), Source(seconds=5), []

    async def want(patience: float) -> None:
        with trio.move_on_after(patience):
            got.append(await get(cache, source))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(want, 1.0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(want, 100.0)
        nursery.start_soon(want, 100.0)
    assert (source.asked, got) == (2, [2, 2])


async def test_a_failure_is_told_and_not_remembered() -> None:
    cache, source = AnswerCache[int](), Source()
    source.fails = True
    with pytest.raises(OSError, match="away"):
        await get(cache, source)
    source.fails = False
    assert await get(cache, source) == 2


async def test_all_are_forgotten_at_once() -> None:
    cache, source = AnswerCache[int](), Source()
    await get(cache, source, b"a")
    cache.clear()
    assert await get(cache, source, b"a") == 2
