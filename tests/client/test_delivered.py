"""Messages as the application gets them: text and bytes like any other, that tell what has become of them."""

from gateway.client.delivered import BinaryMessage, TextMessage, deliver
from gateway.protocol.inbox import Inbox


class Recipient:
    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def consume(self, inbox: Inbox, seq: int) -> None:
        self.told.append(("consumed", inbox, seq))

    def reject(self, inbox: Inbox, seq: int, code: int, reason: str) -> None:
        self.told.append(("rejected", inbox, seq, code, reason))


def inbox_of() -> Inbox:
    return Inbox(consumed=0, window_messages=8, window_bytes=100)


def test_a_message_is_its_payload_and_knows_its_number() -> None:
    inbox, recipient = inbox_of(), Recipient()
    text, binary = deliver(recipient, inbox, 7, "書留"), deliver(recipient, inbox, 8, b"\0x")
    assert (text, text.seq, type(text)) == ("書留", 7, TextMessage)
    assert (binary, binary.seq, type(binary)) == (b"\0x", 8, BinaryMessage)
    assert isinstance(text, str)
    assert isinstance(binary, bytes)


def test_what_becomes_of_it_is_told_of_the_inbox_that_it_came_from() -> None:
    """A session's successor numbers its own messages from 1 again."""
    before, after, recipient = inbox_of(), inbox_of(), Recipient()
    old, new = deliver(recipient, before, 1, "old"), deliver(recipient, after, 1, "new")
    new.ack()
    old.reject(4000, "no")
    old.reject(4001)
    assert recipient.told == [
        ("consumed", after, 1),
        ("rejected", before, 1, 4000, "no"),
        ("rejected", before, 1, 4001, ""),
    ]
