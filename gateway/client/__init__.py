"""The Python client: plain WebSocket connections, and sessions that outlive them; under trio or asyncio.

async with connect("wss://example.com/chat") as connection:
    await connection.send("hello")
    async for message in connection:
        print(message)

async with open_session("wss://example.com/chat") as session:
    await session.send("hello")         # returns when the far side has it
    async for message in session:
        print(message)                  # acknowledged when the loop comes back

What there is; help(gateway.client.Session), say, tells of one of them, docs/python-client.md of all:

    Sessions            open_session Session Settings Timeouts Credential SessionState
    Connections         connect Connection
    Messages            Data Message TextMessage BinaryMessage OutgoingMessage Receipt Rung
    Events              Event StateChanged Opened Acknowledged MessageRejected MessagesLost CredentialJudged
    Loss reports        SessionReport LossReport Fate
    Stores              Store SqliteStore StoredSession Changes
    Faults              ConnectionFailed ConnectionTimeout Untrusted CredentialFailed HandshakeFailed
                        HandshakeRejected NotRecords ConnectionClosed SessionEnded Rejected TooBig Lost WindowFull
                        MessageTooBig
    Faults of a store   StoreFailed StoreLocked StoreFull StoreReadOnly StoreCorrupt StoreUnreachable StoreMoved
"""

from gateway.client.connection import Connection, Timeouts, connect
from gateway.client.credentials import Credential
from gateway.client.delivered import BinaryMessage, Message, TextMessage
from gateway.client.events import (
    Acknowledged,
    CredentialJudged,
    Event,
    MessageRejected,
    MessagesLost,
    Opened,
    SessionState,
    StateChanged,
)
from gateway.client.faults import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionTimeout,
    CredentialFailed,
    Fate,
    HandshakeFailed,
    HandshakeRejected,
    Lost,
    NotRecords,
    Rejected,
    SessionEnded,
    TooBig,
    Untrusted,
    WindowFull,
)
from gateway.client.receipts import Receipt
from gateway.client.session import Session, open_session
from gateway.client.store import Changes, SqliteStore, Store, StoredSession
from gateway.client.upkeep import Settings
from gateway.ends.messages import Data
from gateway.ends.sqlite_file import (
    StoreCorrupt,
    StoreFailed,
    StoreFull,
    StoreLocked,
    StoreMoved,
    StoreReadOnly,
    StoreUnreachable,
)
from gateway.errors import MessageTooBig
from gateway.protocol.outbox import OutgoingMessage
from gateway.protocol.records import LossReport, Rung, SessionReport

__all__ = [
    "Acknowledged",
    "BinaryMessage",
    "Changes",
    "Connection",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionTimeout",
    "Credential",
    "CredentialFailed",
    "CredentialJudged",
    "Data",
    "Event",
    "Fate",
    "HandshakeFailed",
    "HandshakeRejected",
    "LossReport",
    "Lost",
    "Message",
    "MessageRejected",
    "MessageTooBig",
    "MessagesLost",
    "NotRecords",
    "Opened",
    "OutgoingMessage",
    "Receipt",
    "Rejected",
    "Rung",
    "Session",
    "SessionEnded",
    "SessionReport",
    "SessionState",
    "Settings",
    "SqliteStore",
    "StateChanged",
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
    "Timeouts",
    "TooBig",
    "Untrusted",
    "WindowFull",
    "connect",
    "open_session",
]
