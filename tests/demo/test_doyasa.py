"""The backend of the seal."""

from gateway.demo.doyasa import doyasa
from gateway.protocol.records import RecordType
from tests.demo.conversation import serving


async def test_it_counts_on_through_a_resume() -> None:
    async with serving(doyasa) as dial:
        async with await dial() as link:
            await link.open()
            await link.data(1, "どやさ")
            assert await link.receive_message() == (1, "どやさ！（1回目）")
        async with await dial() as link:
            await link.open(seq=1, epoch=2)
            await link.data(2, "どやさ")
            assert await link.receive_message() == (2, "どやさ！（2回目）")


async def test_it_rejects_anything_else() -> None:
    async with serving(doyasa) as dial, await dial() as link:
        await link.open()
        await link.data(1, "doyasa")
        _, _, seq, body = await link.receive_only(RecordType.REJECT)
        assert (seq, b"4000" in body) == (1, True)
