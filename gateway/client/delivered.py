"""Messages of a session as the application gets them: text or bytes that know their number and can be acknowledged."""

from typing import Protocol, TypeAlias

from gateway.protocol.inbox import Inbox


class Recipient(Protocol):
    """Who a message tells what has become of it."""

    def consume(self, inbox: Inbox, seq: int) -> None:
        """Acknowledges a message."""

    def reject(self, inbox: Inbox, seq: int, code: int, reason: str) -> None:
        """Refuses a message."""


class _Delivered:
    """What every message can do."""

    seq: int
    """Its number in the session, from 1."""
    _recipient: Recipient
    _inbox: Inbox

    def ack(self) -> None:
        """Acknowledges the message; again does nothing. Only needed with `Session.manual_ack`."""
        self._recipient.consume(self._inbox, self.seq)

    def reject(self, code: int, reason: str = "") -> None:
        """Refuses the message: its sender is told why, and not that it was consumed.

        Raises ValueError for a code outside 1000 to 4999. A reason is cut to 1024 bytes.
        """
        self._recipient.reject(self._inbox, self.seq, code, reason)


class TextMessage(str, _Delivered):
    """A text message: a `str` that knows its number."""


class BinaryMessage(bytes, _Delivered):
    """A binary message: `bytes` that know their number."""


Message: TypeAlias = TextMessage | BinaryMessage


def deliver(recipient: Recipient, inbox: Inbox, seq: int, data: str | bytes) -> Message:
    """A message for the application."""
    message: Message = TextMessage(data) if isinstance(data, str) else BinaryMessage(data)
    message.seq = seq
    message._recipient = recipient
    message._inbox = inbox
    return message
