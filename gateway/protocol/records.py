"""The record protocol `kakitome.v1`, all of it and so long: records as bytes, the JSON bodies of those with one.

Invariant: a record that leaves `parse_record` or `RecordDecoder` has a known type, flags and a sequence number that
this type allows, and a body within its bounds; JSON bodies are checked by their own `from_json`.

A record is a 10-byte header, big-endian, and a body:

    +------+-------+----------------------+------------
    | type | flags | seq                  | body ...
    | u8   | u8    | u64, at most 2^63-1  |
    +------+-------+----------------------+------------

On a WebSocket connection one binary message carries one record. On TCP each record is preceded by its length (u32,
header and body together). Whoever breaks these rules is answered with a `ProtocolViolation`; where the peer is a
backend the caller turns it into a `FramingViolation`, so that the client is not blamed.
"""

import operator
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

from gateway.codes import MAX_CODE, MIN_CODE
from gateway.errors import MAX_CLOSE_REASON_BYTES, ProtocolViolation
from gateway.protocol.pieces import FIRST, LAST, Buffer, Opcode, Piece

SUBPROTOCOL: Final = "kakitome.v1"

HEADER: Final = struct.Struct(">BBQ")
PREFIXED_HEADER: Final = struct.Struct(">IBBQ")
"""The header as it stands on TCP, after its length."""

MAX_SEQ: Final = 2**63 - 1
"""A signed 64-bit integer holds every sequence number, in any language and any database."""

MAX_BODY_BYTES: Final = 1 << 20
"""The longest body that is accepted; it bounds what a receiver must hold for one record."""

MAX_JSON_BYTES: Final = 64 * 1024
"""The longest JSON body: headers and claims of a request fit, a parser is not kept busy."""

FRAGMENT_BYTES: Final = 64 * 1024
"""The longest DATA body that we send: an ACK or a PING never waits behind more than this."""

MAX_PING_BYTES: Final = 64

DEFAULT_WINDOW_MESSAGES: Final = 1024
DEFAULT_WINDOW_BYTES: Final = 4 * 1024 * 1024

TEXT_FLAG: Final = 0x01
"""DATA: the message is text, UTF-8."""
MORE_FLAG: Final = 0x02
"""DATA: more fragments of this message follow, with the same sequence number."""

Record: TypeAlias = tuple[int, int, int, bytes]
"""(type, flags, seq, body); a plain tuple, because hundreds of thousands of them pass in a second."""


class RecordType(IntEnum):
    """What a record is; the values are those on the wire."""

    OPEN = 0x01
    OPENED = 0x02
    DATA = 0x03
    ACK = 0x04
    REJECT = 0x05
    CLOSE = 0x06
    PING = 0x07
    PONG = 0x08
    AUTH = 0x09
    """On WebSocket only, and only where OPEN and OPENED agreed on it."""


_DATA: Final = int(RecordType.DATA)
_AUTH: Final = int(RecordType.AUTH)
_WHOLE: Final = FIRST | LAST


class Rung(IntEnum):
    """How far a message provably got; each rung implies those below it. An ACK carries the value as its flags."""

    ACCEPTED = 1
    WRITTEN = 2
    REACHED = 3
    CONSUMED = 4


# --- records as bytes ---------------------------------------------------------------------------------------------


def encode_record(record_type: int, flags: int, seq: int, body: bytes = b"") -> bytes:
    """One record as the payload of a WebSocket binary message. Raises struct.error for values out of range."""
    return HEADER.pack(record_type, flags, seq) + body


def encode_prefixed_record(record_type: int, flags: int, seq: int, body: bytes = b"") -> bytes:
    """One record as it stands on TCP, its length first. Raises struct.error for values out of range."""
    return PREFIXED_HEADER.pack(HEADER.size + len(body), record_type, flags, seq) + body


def parse_record(message: bytes) -> Record:
    """The record that a WebSocket binary message carries. Raises ProtocolViolation."""
    if len(message) < HEADER.size:
        raise ProtocolViolation(f"a record of {len(message)} bytes, expected at least its {HEADER.size}-byte header")
    record_type, flags, seq = HEADER.unpack_from(message)
    body_bytes = len(message) - HEADER.size
    # The first condition is the common record, with all that _check_record would ask of it.
    if record_type == _AUTH:
        _check_auth(flags, seq, body_bytes)
    elif not (record_type == _DATA and flags < 4 and body_bytes <= FRAGMENT_BYTES and 0 < seq <= MAX_SEQ):
        _check_record(record_type, flags, seq, body_bytes)
        if record_type in (RecordType.PING, RecordType.PONG):
            raise ProtocolViolation(f"a {RecordType(record_type).name} record on WebSocket, which has pings of its own")
    return record_type, flags, seq, message[HEADER.size :]


def _check_auth(flags: int, seq: int, body_bytes: int) -> None:
    if flags:
        raise ProtocolViolation(f"AUTH with flags {flags:#04x}, expected none")
    if seq > MAX_SEQ:
        raise ProtocolViolation(f"sequence number {seq}, expected at most {MAX_SEQ}")
    if body_bytes > MAX_JSON_BYTES:
        raise ProtocolViolation(f"AUTH body of {body_bytes} bytes, expected at most {MAX_JSON_BYTES}")


def _check_record(record_type: int, flags: int, seq: int, body_bytes: int) -> None:
    """Raise ProtocolViolation where header and body size are not what the record's type allows."""
    if seq > MAX_SEQ:
        raise ProtocolViolation(f"sequence number {seq}, expected at most {MAX_SEQ}")
    match record_type:
        case RecordType.DATA:
            if flags & ~(TEXT_FLAG | MORE_FLAG):
                raise ProtocolViolation(f"DATA with flags {flags:#04x}, expected bits 0 (text) and 1 (more) only")
            if not seq:
                raise ProtocolViolation("DATA with sequence number 0, expected 1 or more")
            if body_bytes > MAX_BODY_BYTES:
                raise ProtocolViolation(f"DATA body of {body_bytes} bytes, expected at most {MAX_BODY_BYTES}")
        case RecordType.ACK:
            if not Rung.ACCEPTED <= flags <= Rung.CONSUMED:
                raise ProtocolViolation(f"ACK of rung {flags}, expected 1 to 4")
            if body_bytes:
                raise ProtocolViolation(f"ACK with a body of {body_bytes} bytes, expected none")
        case RecordType.OPEN | RecordType.OPENED | RecordType.REJECT | RecordType.CLOSE:
            name = RecordType(record_type).name
            if flags:
                raise ProtocolViolation(f"{name} with flags {flags:#04x}, expected none")
            if record_type == RecordType.CLOSE and seq:
                raise ProtocolViolation(f"CLOSE with sequence number {seq}, expected 0")
            if record_type == RecordType.REJECT and not seq:
                raise ProtocolViolation("REJECT with sequence number 0, expected 1 or more")
            if body_bytes > MAX_JSON_BYTES:
                raise ProtocolViolation(f"{name} body of {body_bytes} bytes, expected at most {MAX_JSON_BYTES}")
        case RecordType.PING | RecordType.PONG:
            name = RecordType(record_type).name
            if flags:
                raise ProtocolViolation(f"{name} with flags {flags:#04x}, expected none")
            if not 1 <= body_bytes <= MAX_PING_BYTES:
                raise ProtocolViolation(f"{name} body of {body_bytes} bytes, expected 1 to {MAX_PING_BYTES}")
        case _:
            raise ProtocolViolation(f"record type {record_type:#04x}, expected 0x01 to 0x08")


class RecordAssembler:
    """Records out of the messages of a WebSocket connection, one each.

    Holds at most one unfinished message, of no more bytes than a record may have.
    """

    __slots__ = ("_held", "error")

    def __init__(self) -> None:
        self.error: ProtocolViolation | None = None
        """Why the peer must be failed; once set nothing is taken any more."""
        self._held = bytearray()

    @property
    def held_bytes(self) -> int:
        """What is held of the unfinished message."""
        return len(self._held)

    def feed(self, pieces: Sequence[Piece]) -> list[Record]:
        """The records that data pieces complete. Never raises for bad input: sets `error`, returns what was good."""
        records: list[Record] = []
        if self.error is not None:
            return records
        try:
            for opcode, payload, flags in pieces:
                if opcode != Opcode.BINARY:
                    raise ProtocolViolation("a text message, expected binary ones with a record each")
                if flags == _WHOLE:
                    records.append(parse_record(payload))
                    continue
                if len(self._held) + len(payload) > HEADER.size + MAX_BODY_BYTES:
                    raise ProtocolViolation(f"a record of more than {HEADER.size + MAX_BODY_BYTES} bytes")
                self._held += payload
                if flags & LAST:
                    records.append(parse_record(bytes(self._held)))
                    self._held.clear()
        except ProtocolViolation as violation:
            self.error = violation
            self._held.clear()
        return records


class RecordDecoder:
    """Records out of a TCP byte stream, cut anywhere.

    Holds at most one unfinished record; its bounds are checked as soon as its header is in, before its body is.
    """

    __slots__ = ("_held", "_needed_bytes", "error")

    def __init__(self) -> None:
        self.error: ProtocolViolation | None = None
        """Why the stream cannot be read any further; once set nothing is decoded any more."""
        self._held = bytearray()
        self._needed_bytes = 0

    @property
    def in_record(self) -> bool:
        """Whether a record has begun and not ended: an end of stream would truncate it."""
        return len(self._held) > 0

    @property
    def held_bytes(self) -> int:
        """What is held of the unfinished record."""
        return len(self._held)

    def feed(self, data: Buffer) -> list[Record]:
        """The records that `data` completes. Never raises for bad input: sets `error`, returns what was good before."""
        if self.error is not None:
            return []
        if self._held:
            self._held += data
            # Looked at only when a record is whole: a body that trickles in is not copied again and again.
            if len(self._held) < self._needed_bytes:
                return []
            buffer = bytes(self._held)
            self._held.clear()
        else:
            buffer = bytes(data)
        records: list[Record] = []
        append, unpack, header_bytes = records.append, PREFIXED_HEADER.unpack_from, PREFIXED_HEADER.size
        at, end, size = 0, 0, len(buffer)
        try:
            while size - at >= header_bytes:
                length, record_type, flags, seq = unpack(buffer, at)
                end = at + 4 + length
                # The first condition is the common record, with all that _check_record would ask of it.
                if not (record_type == _DATA and flags < 4 and 10 <= length <= 0x10000 and 0 < seq <= MAX_SEQ):
                    self._check_length(length)
                    _check_record(record_type, flags, seq, length - HEADER.size)
                if end > size:
                    break
                append((record_type, flags, seq, buffer[at + header_bytes : end]))
                at = end
            if size - at >= header_bytes:
                self._needed_bytes = end - at
            elif size - at >= 4:
                self._check_length(int.from_bytes(buffer[at : at + 4], "big"))
                self._needed_bytes = header_bytes
            else:
                self._needed_bytes = 4
        except ProtocolViolation as violation:
            self.error = violation
            return records
        if at < size:
            self._held += buffer[at:]
        return records

    @staticmethod
    def _check_length(length: int) -> None:
        if not HEADER.size <= length <= HEADER.size + MAX_BODY_BYTES:
            raise ProtocolViolation(
                f"a record of {length} bytes, expected {HEADER.size} to {HEADER.size + MAX_BODY_BYTES}"
            )


# --- JSON bodies --------------------------------------------------------------------------------------------------


def _rung_from_name(value: object) -> object:
    """Rungs stand in JSON by their lower-case names."""
    names = {rung.name.lower(): rung for rung in Rung}
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"expected one of {', '.join(names)}")
    return names[value]


def _bounded_reason(limit: int) -> AfterValidator:
    def check(reason: str) -> str:
        if len(reason.encode()) > limit:
            raise ValueError(f"expected at most {limit} bytes of UTF-8")
        return reason

    return AfterValidator(check)


def _ordered_range(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] > value[1]:
        raise ValueError("expected [from, to] with from no greater than to")
    return value


def _ordered_messages(value: tuple[int, int, int, str]) -> tuple[int, int, int, str]:
    _ordered_range(value[:2])
    return value


Position = Annotated[int, Field(ge=0, le=MAX_SEQ)]
Positive = Annotated[int, Field(ge=1, le=MAX_SEQ)]
SeqRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered_range)]
RungName = Annotated[
    Rung, BeforeValidator(_rung_from_name), PlainSerializer(lambda rung: rung.name.lower(), return_type=str)
]
Token = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,256}$")]
CloseCode = Annotated[int, Field(ge=MIN_CODE, le=MAX_CODE)]

RejectedRange = Annotated[
    tuple[Positive, Positive, CloseCode, Annotated[str, _bounded_reason(1024)]], AfterValidator(_ordered_messages)
]
"""`[from, to, code, reason]`: these messages were rejected, see `rejections`."""

Flag = Annotated[bool, Field(exclude_if=operator.not_)]
"""Left out of a body where it is false."""

SecondsLeft = Annotated[float | None, Field(ge=0, allow_inf_nan=False, exclude_if=lambda seconds: seconds is None)]
"""Left out of a body where there is no end."""

RejectedRanges = Annotated[tuple[RejectedRange, ...], Field(exclude_if=operator.not_)]
"""Left out of a body where there are none."""

_ADAPTERS: Final[dict[type[Any], TypeAdapter[Any]]] = {}


def _adapter(body_type: type[Any]) -> TypeAdapter[Any]:
    """The checker of one body type, built when it is first needed (it takes milliseconds)."""
    adapter = _ADAPTERS.get(body_type)
    if adapter is None:
        adapter = _ADAPTERS[body_type] = TypeAdapter(body_type)
    return adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """Types are checked without coercion; unknown keys are ignored, so that newer peers can say more."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body(_Checked):
    """A record's whole JSON body."""

    record_name: ClassVar[str]

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """The checked body. Raises ProtocolViolation that names the first key that is wrong, and why."""
        try:
            return cast("Self", _adapter(cls).validate_json(body))
        except ValidationError as errors:
            first = errors.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            what = first["msg"].removeprefix("Value error, ")
            message = f"{cls.record_name} body: {where + ': ' if where else ''}{what}"
            raise ProtocolViolation(message) from None

    def to_json(self) -> bytes:
        """The body as it is sent: every key, null where there is nothing to say, but for `rejected` that is empty."""
        return _adapter(type(self)).dump_json(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossReport(_Checked):
    """What is known about one direction's messages when its session has ended.

    JSON: `{"settled": n, "unknown": [from, to] | null, "never_forwarded": [from, to] | null}`, bounds included.
    A message that was rejected ahead of its turn may lie within `unknown`: its REJECT has told of it.
    """

    settled: Position
    """All messages up to this one are settled; 0 for none."""
    unknown: SeqRange | None = None
    """Sent on, at least in part, and no evidence that they arrived."""
    never_forwarded: SeqRange | None = None
    """Accepted, and not a byte of them was sent on."""
    rejected: RejectedRanges = ()
    """Of what is settled, and perhaps of what is not, what was refused lately: their sender may not have heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport(_Checked):
    """Both directions' loss reports: the LOSS_REPORT of OPENED and CLOSE."""

    upstream: LossReport
    downstream: LossReport


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFromClient(_Body):
    """The client's OPEN: which session it wants back, what receipts it wants, how much it will take unsettled."""

    record_name = "OPEN"

    session: Token | None = None
    receipts: tuple[RungName, ...] = ()
    window_messages: Positive = DEFAULT_WINDOW_MESSAGES
    window_bytes: Positive = DEFAULT_WINDOW_BYTES
    rejected: RejectedRanges = ()
    """What the client has refused lately of the gateway's messages."""
    token: str | None = None
    """The credential, on routes that take it here."""
    heartbeat: bool = False
    """It cannot see pings, as a page cannot: an ACK is repeated with each of the gateway's."""
    renew: Flag = False
    """It knows AUTH, and can show another credential when it is asked for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedByGateway(_Body):
    """The gateway's OPENED: the session the client has from now on, and the limits it must keep."""

    record_name = "OPENED"

    session: Token
    resumed: bool
    settles_at: RungName
    window_messages: Positive = DEFAULT_WINDOW_MESSAGES
    window_bytes: Positive = DEFAULT_WINDOW_BYTES
    message_bytes: Positive | None = None
    """The largest message that is taken; null: any."""
    grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    heartbeat_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """While both sides are silent an ACK comes at least so often; null: nothing comes then."""
    rejected: RejectedRanges = ()
    """What was refused lately of the client's messages, in the session that is resumed."""
    expires_in_seconds: SecondsLeft = None
    """When the client's permission ends; null: not by itself."""
    renew: Flag = False
    """AUTH is taken, and asked for before the permission ends."""
    report: SessionReport | None = None
    """Of the old session, when `resumed` is false and something is known about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthFromClient(_Body):
    """The client's AUTH: another credential, for whom the session is already."""

    record_name = "AUTH"

    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthByGateway(_Body):
    """The gateway's AUTH: what became of the client's of the same number or, as number 0, that another is due."""

    record_name = "AUTH"

    expires_in_seconds: SecondsLeft = None
    """When the permission ends that holds now; null: not by itself."""
    code: Annotated[CloseCode | None, Field(exclude_if=lambda code: code is None)] = None
    """Why the credential was not taken, as a Close code: 3000, 3003 or 1013; null: it was."""
    reason: Annotated[str, _bounded_reason(MAX_CLOSE_REASON_BYTES), Field(exclude_if=operator.not_)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAddress(_Checked):
    """Where the client comes from; `port` is null where there is none, as on a Unix socket."""

    address: str
    port: Annotated[int, Field(ge=0, le=65535)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenToBackend(_Body):
    """The gateway's OPEN to a backend: whose session this is, and what the client's request said."""

    record_name = "OPEN"

    session: Token
    epoch: Positive
    """Rises with every attach; a backend drops what still comes from an older one."""
    resume: bool = False
    """The session exists: a backend that does not know it refuses (4004) and does not begin it."""
    route: str
    path: str
    query: str = ""
    host: str = ""
    origin: str | None = None
    subprotocol: str | None = None
    client: ClientAddress
    headers: Mapping[str, str] = field(default_factory=dict)
    """The request headers that the route passes on, names in lower case."""
    claims: Mapping[str, JsonValue] | None = None
    window_messages: Positive = DEFAULT_WINDOW_MESSAGES
    window_bytes: Positive = DEFAULT_WINDOW_BYTES
    rejected: RejectedRanges = ()
    """What was refused lately of the backend's messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedByBackend(_Body):
    """The backend's OPENED; `{}` is one."""

    record_name = "OPENED"

    resumed: bool = False
    """Whether the backend still had this session's state, from an earlier epoch."""
    window_messages: Positive = DEFAULT_WINDOW_MESSAGES
    window_bytes: Positive = DEFAULT_WINDOW_BYTES
    rejected: RejectedRanges = ()
    """What was refused lately of the gateway's messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseBody(_Body):
    """CLOSE: the session ends for good. The reason fits a WebSocket Close frame (123 bytes).

    The code is one of RFC 6455 section 7.4 or of the application (1000 to 4999). It may be one that never stands in a
    Close frame, as 1006 for a client that vanished; who relays it to a WebSocket peer must choose another.
    """

    record_name = "CLOSE"

    code: CloseCode
    reason: Annotated[str, _bounded_reason(MAX_CLOSE_REASON_BYTES)] = ""
    report: SessionReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectBody(_Body):
    """REJECT: why this one message was refused; the code is from the same numbers as that of CLOSE."""

    record_name = "REJECT"

    code: CloseCode
    reason: Annotated[str, _bounded_reason(1024)] = ""

    @property
    def told(self) -> tuple[int, str]:
        """(code, reason)."""
        return self.code, self.reason
