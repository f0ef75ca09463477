"""The backend that greets."""

from gateway.demo.hello import hello
from tests.demo.conversation import serving


async def test_it_greets_with_the_path_and_answers_with_pongs() -> None:
    async with serving(hello) as dial, await dial() as link:
        await link.open(path="/hello")
        assert await link.receive_message() == (1, "Hello Client, you connected to /hello")
        await link.data(1, "どやさ")
        assert await link.receive_message() == (2, "Pong: どやさ")
        await link.data(2, b"\xff")
        assert await link.receive_message() == (3, b"Pong: \xff")
        await link.receive_ack(2)


async def test_it_greets_once_however_often_the_session_is_resumed() -> None:
    async with serving(hello) as dial:
        async with await dial() as link:
            await link.open()
            await link.receive_message()
        async with await dial() as link:
            await link.open(seq=1, epoch=2)
            await link.data(1, "again")
            assert await link.receive_message() == (2, "Pong: again")
