"""Conversations for the tests: opened, saved, and told what a gateway would tell."""

import json
from collections.abc import Sequence

from gateway.client.conversation import Conversation
from gateway.client.receipts import Receipt
from gateway.client.store import StoredSession
from gateway.protocol.inbox import Inbox
from gateway.protocol.records import (
    Record,
    RecordType,
    Rung,
    parse_record,
)


def conversation(*, receipts: Sequence[Rung] = (), stored: StoredSession | None = None) -> Conversation:
    return Conversation(stored, receipts=receipts, window_messages=1024, window_bytes=1 << 20)


def save(conversation: Conversation) -> None:
    conversation.mark_saved(conversation.changes())


def opened(
    conversation: Conversation, position: int = 0, *, token: str = "token", resumed: bool = False, **body: object
) -> Conversation:
    """The conversation, open on a new connection."""
    conversation.attach()
    conversation.records_to_send(1 << 20)
    answer = {"session": token, "resumed": resumed, "settles_at": "consumed", **body}
    conversation.receive([(RecordType.OPENED, 0, position, json.dumps(answer).encode())])
    save(conversation)
    return conversation


def sent(conversation: Conversation, *texts: str) -> list[Receipt]:
    """The receipts of messages that have left."""
    receipts = [conversation.send(text=True, payload=text.encode()) for text in texts]
    save(conversation)
    conversation.records_to_send(1 << 20)
    return receipts


def types_sent(conversation: Conversation) -> list[int]:
    save(conversation)
    return [parse_record(record)[0] for record in conversation.records_to_send(1 << 20)]


def upstream(
    settled: int, *, unknown: list[int] | None = None, never_forwarded: list[int] | None = None
) -> dict[str, object]:
    """A loss report that says so of our messages."""
    up = {"settled": settled, "unknown": unknown, "never_forwarded": never_forwarded}
    return {"upstream": up, "downstream": {"settled": 0}}


def seq_of(record: bytes) -> int:
    return parse_record(record)[2]


def close_record(code: int, **body: object) -> Record:
    return RecordType.CLOSE, 0, 0, json.dumps({"code": code, "reason": "because", **body}).encode()


def data(seq: int, payload: bytes = b"x") -> Record:
    return RecordType.DATA, 0, seq, payload


def take(session: Conversation) -> tuple[Inbox, int]:
    """(inbox, number) of the next message."""
    taken = session.take_message(1 << 20)
    assert taken is not None
    return taken[0], taken[1].seq
