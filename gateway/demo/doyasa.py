"""The `doyasa` backend: answers a seal with a seal, and counts them."""

from typing import Final

from gateway.backend import Session

DOYASA: Final = "どやさ"


async def doyasa(session: Session) -> None:
    """The number of the answer is that of the message, so a resumed session counts on."""
    async for message in session:
        if message == DOYASA:
            async with message.transaction() as transaction:
                transaction.send(f"{DOYASA}！（{message.seq}回目）")
        else:
            message.reject(4000, f"expected {DOYASA}")
