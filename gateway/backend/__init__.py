"""The Python kit for TCP services that speak records.

from gateway.backend import Session, serve

async def handler(session: Session) -> None:
    async for message in session:
        await session.send("Pong: " + message)

anyio.run(functools.partial(serve, handler, port=9000))

What there is; help(gateway.backend.Session), say, tells of one of them, docs/python-backend.md of all:

    Serving             serve Handler Limits Address
    Sessions            Session Transaction Receipt SessionEnded MessageRejected
    Messages            Message TextMessage BinaryMessage IncomingPiece OutgoingMessage
    Stores              Store MemoryStore SqliteStore StoredSession Changes SessionEnd
    Faults of a store   StoreFailed StoreLocked StoreFull StoreReadOnly StoreCorrupt StoreUnreachable StoreMoved
"""

from gateway.backend.handling import Handler
from gateway.backend.limits import Limits
from gateway.backend.service import Address, serve
from gateway.backend.session import (
    BinaryMessage,
    Message,
    MessageRejected,
    Receipt,
    Session,
    SessionEnded,
    TextMessage,
    Transaction,
)
from gateway.backend.sqlite_store import SqliteStore
from gateway.backend.store import Changes, MemoryStore, SessionEnd, Store, StoredSession
from gateway.ends.sqlite_file import (
    StoreCorrupt,
    StoreFailed,
    StoreFull,
    StoreLocked,
    StoreMoved,
    StoreReadOnly,
    StoreUnreachable,
)
from gateway.protocol.inbox import IncomingPiece
from gateway.protocol.outbox import OutgoingMessage

__all__ = [
    "Address",
    "BinaryMessage",
    "Changes",
    "Handler",
    "IncomingPiece",
    "Limits",
    "MemoryStore",
    "Message",
    "MessageRejected",
    "OutgoingMessage",
    "Receipt",
    "Session",
    "SessionEnd",
    "SessionEnded",
    "SqliteStore",
    "Store",
    "StoreCorrupt",
    "StoreFailed",
    "StoreFull",
    "StoreLocked",
    "StoreMoved",
    "StoreReadOnly",
    "StoreUnreachable",
    "StoredSession",
    "TextMessage",
    "Transaction",
    "serve",
]
