"""The `hello` backend: greets, and answers each text with a pong."""

from gateway.backend import Session


async def hello(session: Session) -> None:
    """Greets once in a session's life, however often it is resumed; answers binary messages in kind."""
    if session.sent_messages == 0:
        await session.send(f"Hello Client, you connected to {session.path}")
    async for message in session:
        async with message.transaction() as transaction:
            transaction.send("Pong: " + message if isinstance(message, str) else b"Pong: " + message)
