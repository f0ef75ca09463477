"""Opens a session with a records backend: OPEN out, OPENED in, within one deadline."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from gateway.errors import BackendRefused, BackendTimeout, BackendUnreachable, ProtocolViolation
from gateway.protocol.records import (
    CloseBody,
    OpenedByBackend,
    OpenToBackend,
    Record,
    RecordDecoder,
    RecordType,
    SessionReport,
    encode_prefixed_record,
)
from gateway.relay.records_backend import OpenedBackend
from gateway.transport.channel import Channel
from gateway.transport.connector import Dialed

RECEIVE_BYTES: Final = 65536


async def open_backend(
    channel: Channel, body: OpenToBackend, *, consumed: int, timeout_seconds: float
) -> OpenedBackend:
    """Sends OPEN, saying that the backend's messages up to `consumed` need not come again, and awaits the answer.

    Raises BackendRefused for a CLOSE, BackendTimeout, and BackendUnreachable for a connection that ends or an answer
    that breaks the protocol; the channel is good for nothing then.
    """
    try:
        with trio.fail_after(timeout_seconds):
            await channel.send_all(encode_prefixed_record(RecordType.OPEN, 0, consumed, body.to_json()))
            decoder = RecordDecoder()
            records: list[Record] = []
            while not records:
                data = await channel.receive_some(RECEIVE_BYTES)
                if not data:
                    raise BackendUnreachable("the backend ended the connection instead of answering OPEN")
                records = decoder.feed(data)
                if decoder.error is not None and not records:
                    raise decoder.error
            return _check(records, decoder, body, consumed)
    except trio.TooSlowError:
        raise BackendTimeout(f"the backend did not answer OPEN within {timeout_seconds:g} s") from None
    except ProtocolViolation as violation:
        raise BackendUnreachable(f"the backend broke the record protocol: {violation}") from None
    except OSError as error:
        raise BackendUnreachable(f"the backend's connection broke before OPENED: {error}") from None


def _check(records: Sequence[Record], decoder: RecordDecoder, told: OpenToBackend, acknowledged: int) -> OpenedBackend:
    record_type, _, seq, body = records[0]
    if record_type == RecordType.CLOSE:
        close = CloseBody.from_json(body)
        raise BackendRefused("the backend refused the session", code=close.code, close_reason=close.reason)
    if record_type != RecordType.OPENED:
        raise ProtocolViolation(f"{RecordType(record_type).name} in answer to OPEN, expected OPENED or CLOSE")
    return OpenedBackend(
        body=OpenedByBackend.from_json(body),
        consumed=seq,
        decoder=decoder,
        early=records[1:],
        window_messages=told.window_messages,
        window_bytes=told.window_bytes,
        acknowledged=acknowledged,
        refused=told.rejected,
    )


async def dismiss_backend(dialed: Dialed, *, code: int, reason: str, report: SessionReport | None = None) -> None:
    """Tells a backend that has answered OPEN that the session is over, and closes. Raises nothing for its absence."""
    body = CloseBody(code=code, reason=reason, report=report)
    try:
        with suppress(OSError):  # then its own patience has to end the session
            await dialed.channel.send_all(encode_prefixed_record(RecordType.CLOSE, 0, 0, body.to_json()))
            await dialed.channel.finish()
    finally:
        dialed.close()
