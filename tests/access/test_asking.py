"""Questions over real HTTP: what a slow, silent, endless or lying authoriser costs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from gateway.access.asking import ANSWER_BYTES, QUESTIONS_AT_ONCE, AuthoriserAway, HttpAsker, Question

Served = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@asynccontextmanager
async def authoriser(serve: Served) -> AsyncIterator[str]:
    """A server that reads one head a connection and hands it to `serve`; its URL."""

    async def handle(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = await stream.receive_some()
            if not received:
                return
            head += received
        try:
            await serve(stream, head)
            await stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/auth"
        nursery.cancel_scope.cancel()


def answering(raw: bytes) -> Served:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(raw)

    return serve


async def fails(served: Served, *, timeout_seconds: float = 5.0, body_bytes: int = ANSWER_BYTES) -> str:
    async with authoriser(served) as url, HttpAsker() as asker:
        question = Question(method="GET", url=url, timeout_seconds=timeout_seconds, body_bytes=body_bytes)
        with pytest.raises(AuthoriserAway) as caught:
            await asker.ask(question)
    return str(caught.value)


async def test_question_and_answer() -> None:
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        heads.append(head)
        await stream.send_all(b"HTTP/1.1 401 No\r\nX-A: 1\r\nX-A: 2\r\nX-B: 3\r\nContent-Length: 2\r\n\r\nno")

    async with authoriser(serve) as url, HttpAsker() as asker:
        answer = await asker.ask(
            Question(
                method="POST",
                url=url,
                timeout_seconds=5,
                form={"token": "a b"},
                basic=("gateway", "s3cret"),
                headers=(("Cookie", "a=b"), ("Cookie", "c=d")),
            )
        )
    assert (answer.status, answer.body) == (401, b"no")
    assert (answer.header("x-a"), answer.header("x-b"), answer.header("x-c")) == (None, "3", None)
    head = heads[0].lower()
    assert head.startswith(b"post /auth http/1.1\r\n")
    assert b"\r\ncookie: a=b\r\ncookie: c=d\r\n" in head
    assert b"\r\nauthorization: basic z2f0zxdhetpzm2nyzxq=\r\n" in head
    assert b"\r\nuser-agent: kakitome/" in head


async def test_no_redirect_is_followed() -> None:
    raw = b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"
    async with authoriser(answering(raw)) as url, HttpAsker() as asker:
        assert (await asker.ask(Question(method="GET", url=url, timeout_seconds=5))).status == 302


async def test_an_answer_that_is_too_large() -> None:
    body = b"x" * (ANSWER_BYTES + 1)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert await fails(answering(head + body)) == f"its answer is larger than {ANSWER_BYTES} bytes"


async def test_an_answer_without_end() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    assert "is larger than" in await fails(serve)


async def test_a_head_without_end() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"X-Filler: " + b"x" * 4096 + b"\r\n")

    assert await fails(serve)


async def test_a_compressed_answer_is_not_inflated() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
    async with authoriser(answering(raw)) as url, HttpAsker() as asker:
        assert (await asker.ask(Question(method="GET", url=url, timeout_seconds=5))).body == b"\x1f\x8b\x08\x00"


@pytest.mark.parametrize(
    "raw", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"\x15\x03"]
)
async def test_what_is_no_answer(raw: bytes) -> None:
    assert await fails(answering(raw))


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])
async def test_silence_lasts_as_long_as_the_deadline(said: bytes) -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(said)
        await trio.sleep_forever()

    assert await fails(serve, timeout_seconds=0.3) == "no answer within 0.3 seconds"


async def test_a_drip_does_not_stretch_the_deadline() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.02)

    assert await fails(serve, timeout_seconds=0.3) == "no answer within 0.3 seconds"


async def test_nobody_there() -> None:
    async with HttpAsker() as asker:
        with pytest.raises(AuthoriserAway):
            await asker.ask(Question(method="GET", url="http://127.0.0.1:1/", timeout_seconds=5))


async def test_a_body_that_is_not_wanted_is_not_read() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        await trio.sleep_forever()

    async with authoriser(serve) as url, HttpAsker() as asker:
        answer = await asker.ask(Question(method="GET", url=url, timeout_seconds=5, body_bytes=0))
    assert (answer.status, answer.body) == (200, b"")


async def test_only_so_many_at_once() -> None:
    now = most = 0
    gate, full = trio.Event(), trio.Event()

    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == QUESTIONS_AT_ONCE:
            full.set()
        await gate.wait()
        now -= 1
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with authoriser(serve) as url, HttpAsker() as asker, trio.open_nursery() as nursery:
        for _ in range(2 * QUESTIONS_AT_ONCE):
            nursery.start_soon(asker.ask, Question(method="GET", url=url, timeout_seconds=30))
        await full.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        gate.set()
    assert most == QUESTIONS_AT_ONCE


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with authoriser(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as url, HttpAsker() as asker:
        assert (await asker.ask(Question(method="GET", url=url, timeout_seconds=5))).status == 200
