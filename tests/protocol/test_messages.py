"""An open WebSocket connection, long as its rules: the closing handshake, bounded compression, two ends that talk."""

import random
import zlib
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConnectionFault, InvalidUtf8, MessageTooBig, PolicyViolation, ProtocolViolation
from gateway.protocol import messages
from gateway.protocol.deflate import MODEST, DeflateParameters, Deflater
from gateway.protocol.frames import COMPRESSED, FIRST, LAST, Piece, encode_pieces
from gateway.protocol.messages import (
    INFLATED_BYTES_PER_CALL,
    INFLATED_FREE_BYTES,
    INFLATED_PIECE_BYTES,
    TRANSITIONS,
    CloseFrame,
    SentAfterClose,
    State,
    Step,
    WebSocketConnection,
    is_legal_close_code,
)
from tests.protocol.codecs import CODECS
from tests.protocol.frame_model import merged
from tests.support.memory import peak_bytes

WHOLE = FIRST | LAST
WIDE = DeflateParameters()


@pytest.fixture(params=CODECS, scope="module", autouse=True)
def codec(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Every test of this file runs on both codecs."""
    chosen: ModuleType = request.param
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FrameDecoder", "Utf8Validator", "encode_pieces"):
            patch.setattr(messages, name, getattr(chosen, name))
        yield chosen


def server(**options: Any) -> WebSocketConnection:
    return WebSocketConnection(client=False, **options)


def client(**options: Any) -> WebSocketConnection:
    return WebSocketConnection(client=True, **options)


def masked(*pieces: Piece) -> bytes:
    """Frames as a client sends them."""
    return encode_pieces(pieces, lambda: b"\x01\x02\x03\x04")


def receive_all(connection: WebSocketConnection, data: bytes) -> list[Piece]:
    pieces = connection.receive_data(data)
    while connection.has_pending:
        pieces += connection.receive_data(b"")
    return pieces


def fault_of(connection: WebSocketConnection) -> ConnectionFault | None:
    """The connection's error, read anew."""
    return connection.error


def state_of(connection: WebSocketConnection) -> State:
    """The connection's state, read anew."""
    return connection.state


def deflated(payload: bytes) -> bytes:
    return Deflater(window_bits=15, no_context_takeover=True).deflate(payload, last=True, flush=True)


# --- the closing handshake --------------------------------------------------------------------------------------------


def test_the_table_has_every_way_to_the_end_and_no_other() -> None:
    missing = {(state, step) for state in State for step in Step} - TRANSITIONS.keys()
    assert missing == {
        (State.CLOSE_SENT, Step.SEND_CLOSE),
        (State.CLOSE_RECEIVED, Step.RECEIVE_CLOSE),
        (State.CLOSED, Step.SEND_CLOSE),
        (State.CLOSED, Step.RECEIVE_CLOSE),
    }


def test_a_step_that_is_not_in_the_table_is_a_mistake_of_ours() -> None:
    near = server()
    near._move(Step.SEND_CLOSE)
    with pytest.raises(RuntimeError, match="SEND_CLOSE is impossible in state CLOSE_SENT"):
        near._move(Step.SEND_CLOSE)


def test_a_close_from_the_peer_is_answered() -> None:
    near, far = server(), client()
    assert near.receive_data(far.close(1001, "going")) == [(8, b"\x03\xe9going", WHOLE)]
    assert near.close_received == CloseFrame(code=1001, reason="going")
    assert (near.state, far.state) == (State.CLOSE_RECEIVED, State.CLOSE_SENT)
    # What was under way may still be sent before the answer (RFC 6455 section 5.5.1).
    assert far.receive_data(near.send([(2, b"rest", WHOLE)])) == [(2, b"rest", WHOLE)]
    assert far.receive_data(near.close(1001)) == [(8, b"\x03\xe9", WHOLE)]
    assert (near.state, far.state) == (State.CLOSED, State.CLOSED)
    assert far.close_received == CloseFrame(code=1001)


def test_both_may_close_at_once() -> None:
    near, far = server(), client()
    to_near, to_far = far.close(1000), near.close(1001)
    near.receive_data(to_near)
    far.receive_data(to_far)
    assert (near.state, far.state) == (State.CLOSED, State.CLOSED)


def test_data_before_the_peers_close_still_comes_in_after_ours_was_sent() -> None:
    near = server()
    near.close(1000)
    data = masked((1, b"late", WHOLE), (8, b"", WHOLE), (1, b"too late", WHOLE))
    assert near.receive_data(data) == [(1, b"late", WHOLE), (8, b"", WHOLE)]
    assert near.close_received == CloseFrame(code=1005)
    assert near.receive_data(b"\xff\xff") == []
    assert near.error is None


def test_nothing_is_sent_after_a_close() -> None:
    near = server()
    assert near.close(None) == b"\x88\x00"
    assert near.close(1000) == b""
    with pytest.raises(SentAfterClose):
        near.send([(1, b"x", WHOLE)])
    near.receive_data(masked((8, b"", WHOLE)))
    assert near.state is State.CLOSED
    assert near.close(1000) == b""
    with pytest.raises(SentAfterClose):
        near.send([(9, b"", WHOLE)])


LEGAL_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_every_close_code_is_taken_or_refused_by_the_letter() -> None:
    for code in [*range(5200), 0xFFFF]:
        near = server()
        pieces = near.receive_data(masked((2, b"x", WHOLE), (8, code.to_bytes(2, "big") + b"why", WHOLE)))
        assert is_legal_close_code(code) == (code in LEGAL_CODES)
        if code in LEGAL_CODES:
            assert near.close_received == CloseFrame(code=code, reason="why")
            assert len(pieces) == 2
        else:
            assert isinstance(near.error, ProtocolViolation), code
            assert str(code) in str(near.error)
            assert near.close_received is None
            assert pieces == [(2, b"x", WHOLE)]
            assert (
                near.close(near.error.close_code, near.error.close_reason)[:4]
                == b"\x88" + bytes((len(near.error.close_reason) + 2,)) + b"\x03\xea"
            )
            assert near.state is State.CLOSED


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"\x03", ProtocolViolation),
        (b"\x03\xe8\xff", InvalidUtf8),
        (b"\x03\xe8\xe6\x9b", InvalidUtf8),
        (b"\x03\xe8\xed\xa0\x80", InvalidUtf8),
    ],
)
def test_a_close_with_a_bad_payload_is_a_fault(payload: bytes, fault: type[ConnectionFault]) -> None:
    near = server()
    assert near.receive_data(masked((8, payload, WHOLE))) == []
    assert isinstance(near.error, fault)
    assert near.close_received is None


def test_only_codes_that_may_be_sent_are() -> None:
    for code in [*range(5200), 65536, -1]:
        near = server()
        if code in LEGAL_CODES:
            assert near.close(code)[2:] == code.to_bytes(2, "big")
        elif code == 1005:
            assert near.close(code) == b"\x88\x00"
        else:
            with pytest.raises(ValueError, match="close code"):
                near.close(code)
            assert near.state is State.OPEN
    with pytest.raises(ValueError, match="without a code"):
        server().close(None, "but why")


def test_a_reason_is_cut_to_what_fits_at_the_end_of_a_character() -> None:
    far = client()
    far.receive_data(server().close(1000, "書" * 60))
    assert far.close_received == CloseFrame(code=1000, reason="書" * 41)
    far = client()
    far.receive_data(server().close(1000, "half a pair: \ud83d"))
    assert far.close_received == CloseFrame(code=1000, reason="half a pair: \ufffd")


# --- receiving --------------------------------------------------------------------------------------------------------


def test_without_compression_the_decoders_list_is_returned_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[list[Piece]] = []

    class Recording:
        closed = False
        error = None

        def __init__(self, **options: Any) -> None:
            pass

        def feed(self, data: bytes) -> list[Piece]:
            lists.append([(2, data, WHOLE), (9, b"p", WHOLE)])
            return lists[-1]

    monkeypatch.setattr(messages, "FrameDecoder", Recording)
    assert server().receive_data(b"x") is lists[0]
    assert lists[0] == [(2, b"x", WHOLE), (9, b"p", WHOLE)]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\x83", ProtocolViolation),
        (masked((1, b"\xff", WHOLE)), InvalidUtf8),
        (masked((2, bytes(101), WHOLE)), MessageTooBig),
    ],
)
def test_a_fault_of_the_peers_ends_reading_and_is_answered_with_its_code(
    data: bytes, fault: type[ConnectionFault]
) -> None:
    near = server(message_bytes=100)
    assert near.receive_data(masked((1, b"good", WHOLE)) + data + masked((1, b"late", WHOLE)))[0] == (1, b"good", WHOLE)
    assert isinstance(near.error, fault)
    assert state_of(near) is State.CLOSE_RECEIVED
    assert near.receive_data(masked((1, b"later", WHOLE))) == []
    far = client()
    far.receive_data(near.close(near.error.close_code, near.error.close_reason))
    assert far.close_received == CloseFrame(code=fault.close_code, reason=str(near.error))
    assert near.state is State.CLOSED


def test_a_fault_after_our_own_close_ends_the_connection() -> None:
    near = server()
    near.close(1000)
    near.receive_data(b"\xff")
    assert near.state is State.CLOSED
    assert isinstance(near.error, ProtocolViolation)


def test_a_client_masks_with_ever_new_keys_and_a_server_does_not() -> None:
    far = client()
    sent = [far.send([(2, bytes(4), WHOLE)]) for _ in range(200)]
    assert all(frame[:2] == b"\x82\x84" and frame[2:6] == frame[6:] for frame in sent)
    assert len({frame[2:6] for frame in sent}) > 190
    assert server().send([(2, bytes(4), WHOLE)]) == b"\x82\x04\0\0\0\0"


# --- compression ------------------------------------------------------------------------------------------------------


def test_messages_are_compressed_and_come_out_as_if_they_had_not_been() -> None:
    near, far = server(deflate=WIDE), client(deflate=WIDE)
    text = "どやさ".encode() * 1000
    data = far.send([(1, text, WHOLE), (9, b"ping", WHOLE), (2, b"", WHOLE)])
    assert len(data) < 100
    assert near.receive_data(data) == [(1, text, WHOLE), (9, b"ping", WHOLE), (2, b"", WHOLE)]
    assert far.receive_data(near.send([(1, text, WHOLE)])) == [(1, text, WHOLE)]


def test_a_message_under_way_is_flushed_with_each_send() -> None:
    near, far = server(deflate=WIDE), client(deflate=WIDE)
    assert near.receive_data(far.send([(1, b"a", FIRST), (9, b"", WHOLE)])) == [(1, b"a", FIRST), (9, b"", WHOLE)]
    assert near.receive_data(far.send([(1, b"", 0)])) == []
    assert near.receive_data(far.send([(1, b"b", 0), (1, b"c", 0)])) == [(1, b"bc", 0)]
    assert near.receive_data(far.send([(1, b"", LAST)])) == [(1, b"", LAST)]
    assert near.receive_data(far.send([(1, b"d", WHOLE), (2, b"e", FIRST)])) == [(1, b"d", WHOLE), (2, b"e", FIRST)]


def test_uncompressed_messages_are_taken_among_compressed_ones() -> None:
    near = server(deflate=WIDE)
    data = masked((1, b"plain", FIRST), (1, b" text", LAST), (2, deflated(b"x"), WHOLE | COMPRESSED), (2, b"y", WHOLE))
    assert merged(near.receive_data(data)) == [(1, b"plain text", WHOLE), (2, b"x", WHOLE), (2, b"y", WHOLE)]
    near.receive_data(masked((1, b"\xff", WHOLE)))
    assert isinstance(near.error, InvalidUtf8)


def test_a_fragmented_compressed_message_with_pings_between() -> None:
    near = server(deflate=WIDE)
    payload = deflated(b"x" * 1000)
    frames = [masked((2, payload[:1], FIRST | COMPRESSED))]
    frames += [masked((2, payload[at : at + 1], COMPRESSED), (9, b"%d" % at, WHOLE)) for at in range(1, len(payload))]
    pieces = receive_all(near, b"".join(frames) + masked((2, b"", LAST | COMPRESSED)))
    assert [piece[1] for piece in pieces if piece[0] == 9] == [b"%d" % at for at in range(1, len(payload))]
    data = [piece for piece in pieces if piece[0] == 2]
    assert merged(data) == [(2, b"x" * 1000, WHOLE)]


def test_where_our_window_would_be_8_bits_we_send_uncompressed_and_still_inflate() -> None:
    narrow = DeflateParameters(server_max_window_bits=8)
    near, far = server(deflate=narrow), client(deflate=narrow)
    assert near.send([(1, b"abc", WHOLE)]) == b"\x81\x03abc"
    assert far.receive_data(near.send([(1, b"abc", WHOLE)])) == [(1, b"abc", WHOLE)]
    assert near.receive_data(far.send([(1, bytes(5000), WHOLE)])) == [(1, bytes(5000), WHOLE)]


def test_text_is_checked_after_inflation() -> None:
    near = server(deflate=WIDE)
    text = "書留".encode()
    first, second = deflated(text)[:4], deflated(text)[4:]
    data = masked((1, first, FIRST | COMPRESSED), (9, b"", WHOLE), (1, second, LAST | COMPRESSED))
    pieces = [piece for piece in near.receive_data(data) if piece[0] == 1]
    assert merged(pieces) == [(1, text, WHOLE)]
    for bad, words in ((b"abc\xff", "is not UTF-8"), (text[:-1], "ends inside")):
        near = server(deflate=WIDE)
        good = masked((2, deflated(b"\xff"), WHOLE | COMPRESSED))
        assert near.receive_data(good + masked((1, deflated(bad), WHOLE | COMPRESSED))) == [(2, b"\xff", WHOLE)]
        assert isinstance(near.error, InvalidUtf8)
        assert words in str(near.error)
        assert near.receive_data(masked((2, b"x", WHOLE))) == []


def test_broken_compressed_data_is_a_protocol_violation() -> None:
    near = server(deflate=WIDE)
    near.receive_data(masked((2, b"\xff\xff", WHOLE | COMPRESSED)))
    assert isinstance(near.error, ProtocolViolation)
    assert near.state is State.CLOSE_RECEIVED
    assert not near.has_pending


@pytest.mark.parametrize("fragments", [1, 3])
def test_the_limit_holds_for_the_inflated_message(fragments: int) -> None:
    def compressed(size: int) -> bytes:
        payload = deflated(bytes(size))
        cuts = [len(payload) * at // fragments for at in range(fragments + 1)]
        flags = [
            COMPRESSED | (FIRST if at == 0 else 0) | (LAST if at == fragments - 1 else 0) for at in range(fragments)
        ]
        return masked(*((2, payload[a:b], flag) for (a, b), flag in zip(pairwise(cuts), flags, strict=True)))

    limit = 200_000
    near = server(deflate=WIDE, message_bytes=limit)
    pieces = receive_all(near, compressed(limit) + compressed(limit))
    assert merged(pieces) == [(2, bytes(limit), WHOLE)] * 2
    assert fault_of(near) is None
    pieces = receive_all(near, compressed(limit + 1))
    assert isinstance(near.error, MessageTooBig)
    assert str(near.error) == "message of 200001 bytes or more exceeds the limit of 200000 bytes"
    assert sum(len(piece[1]) for piece in pieces) <= limit
    assert not any(piece[2] & LAST for piece in pieces)


def test_a_limit_of_zero_lets_only_empty_compressed_messages_pass() -> None:
    near = server(deflate=WIDE, message_bytes=0)
    assert near.receive_data(masked((1, deflated(b""), WHOLE | COMPRESSED))) == [(1, b"", WHOLE)]
    near.receive_data(masked((1, deflated(b"x"), WHOLE | COMPRESSED)))
    assert isinstance(near.error, MessageTooBig)


@pytest.mark.parametrize("message_bytes", [None, 32 << 20])
def test_a_small_read_never_becomes_much_memory(message_bytes: int | None) -> None:
    read = masked((2, zlib.compress(bytes(32 << 20), wbits=-15), WHOLE | COMPRESSED))
    assert len(read) < 65536

    def receive() -> None:
        near = server(deflate=WIDE, message_bytes=message_bytes)
        received = 0
        pieces = near.receive_data(read)
        while True:
            assert max(len(piece[1]) for piece in pieces) <= INFLATED_PIECE_BYTES
            received += sum(len(piece[1]) for piece in pieces)
            if not near.has_pending:
                break
            pieces = near.receive_data(b"")
        assert received == 32 << 20
        assert near.error is None

    allowed = 2 * INFLATED_BYTES_PER_CALL + 2 * len(read) + 256 * 1024
    assert peak_bytes(receive, enough=allowed - 1) < allowed


def test_many_small_bombs_in_one_read_are_bounded_together() -> None:
    near = server(deflate=WIDE, message_bytes=1 << 20)
    bomb = masked((2, deflated(bytes(1 << 20)), WHOLE | COMPRESSED))
    pieces = near.receive_data(bomb * 20)
    calls = 1
    assert sum(len(piece[1]) for piece in pieces) <= INFLATED_BYTES_PER_CALL + INFLATED_PIECE_BYTES
    while near.has_pending:
        pieces += near.receive_data(b"")
        calls += 1
    assert merged(pieces) == [(2, bytes(1 << 20), WHOLE)] * 20
    assert calls >= 20 * 4


def ratio_server(ratio: float | None) -> WebSocketConnection:
    return WebSocketConnection(client=False, deflate=WIDE, message_bytes=1 << 20, inflation_ratio=ratio)


def test_a_connection_whose_messages_inflate_too_much_on_average_is_ended() -> None:
    near = ratio_server(100.0)
    bomb = masked((2, deflated(bytes(1 << 20)), WHOLE | COMPRESSED))
    inflated = 0
    while near.error is None:
        pieces = receive_all(near, bomb)
        inflated += sum(len(piece[1]) for piece in pieces)
        assert inflated < 2 * INFLATED_FREE_BYTES
    assert inflated >= INFLATED_FREE_BYTES, "some pictures of one colour are no bomb"
    assert isinstance(near.error, PolicyViolation)
    assert str(near.error) == "messages inflate to more than 100 times their compressed size"


@pytest.mark.parametrize("ratio", [None, 100.0])
def test_what_compresses_well_but_not_madly_goes_on_for_ever(ratio: float | None) -> None:
    near = ratio_server(ratio)
    text = b'{"kind": "position", "x": 12.5, "y": 99.25}\n'
    message = masked((2, deflated(b"".join(text + b"%d" % number for number in range(4000))), WHOLE | COMPRESSED))
    inflated = 0
    while inflated < 3 * INFLATED_FREE_BYTES:
        inflated += sum(len(piece[1]) for piece in receive_all(near, message))
        assert near.error is None


def test_bombs_have_their_limit_in_what_came_compressed_before() -> None:
    near = ratio_server(10.0)
    noise = masked((2, deflated(random.Random(1).randbytes(1 << 19)), WHOLE | COMPRESSED))
    bomb = masked((2, deflated(bytes(1 << 20)), WHOLE | COMPRESSED))
    for _ in range(10):
        receive_all(near, noise)
        for _ in range(4):
            receive_all(near, bomb)
    assert near.error is None


def test_what_comes_after_pending_data_waits_for_its_turn() -> None:
    big = masked((2, deflated(bytes(1 << 20)), WHOLE | COMPRESSED))
    near = server(deflate=WIDE)
    pieces = near.receive_data(big + masked((9, b"", WHOLE), (8, b"\x03\xe8", WHOLE), (1, b"late", WHOLE)))
    assert near.has_pending
    assert state_of(near) is State.OPEN
    pieces += receive_all(near, b"")
    assert merged(pieces) == [(2, bytes(1 << 20), WHOLE), (9, b"", WHOLE), (8, b"\x03\xe8", WHOLE)]
    assert near.close_received == CloseFrame(code=1000)

    near = server(deflate=WIDE)
    pieces = near.receive_data(big + b"\x83")
    assert fault_of(near) is None
    pieces += near.receive_data(masked((1, b"late", WHOLE)))
    pieces += receive_all(near, b"")
    assert merged(pieces) == [(2, bytes(1 << 20), WHOLE)]
    assert isinstance(near.error, ProtocolViolation)


# --- two ends ---------------------------------------------------------------------------------------------------------

bits = st.integers(8, 15)
parameters = st.one_of(
    st.none(),
    st.just(MODEST),
    st.builds(
        DeflateParameters,
        server_no_context_takeover=st.booleans(),
        client_no_context_takeover=st.booleans(),
        server_max_window_bits=bits,
        client_max_window_bits=bits,
    ),
)
payloads = st.one_of(
    st.text(max_size=50).map(str.encode), st.integers(0, 100_000).map(lambda size: b"0123456789" * (size // 10))
)
conversations = st.lists(
    st.tuples(st.booleans(), st.sampled_from([1, 2]), st.lists(payloads, min_size=1, max_size=3), st.booleans()),
    max_size=8,
)


@given(deflate=parameters, conversation=conversations, cuts=st.lists(st.integers(0, 3000), max_size=5))
def test_what_one_end_sends_the_other_receives(
    deflate: DeflateParameters | None, conversation: list[Any], cuts: list[int]
) -> None:
    ends = client(deflate=deflate, message_bytes=1 << 20), server(deflate=deflate, message_bytes=1 << 20)
    for by_client, opcode, parts, ping in conversation:
        sender, receiver = ends if by_client else ends[::-1]
        pieces: list[Piece] = [(opcode, part, 0) for part in parts]
        pieces[0] = (opcode, parts[0], FIRST)
        pieces[-1] = (opcode, parts[-1], pieces[-1][2] | LAST)
        pings: list[Piece] = [(9, b"ping", WHOLE)] if ping else []
        data = sender.send(pieces + pings)
        bounds = sorted({0, len(data), *(at for at in cuts if at < len(data))})
        received = [piece for a, b in pairwise(bounds) for piece in receive_all(receiver, data[a:b])]
        assert receiver.error is None
        assert merged(received) == [(opcode, b"".join(parts), WHOLE), *pings]
    near, far = ends
    far.receive_data(near.close(1000, "done"))
    near.receive_data(far.close(1000))
    assert (near.state, far.state) == (State.CLOSED, State.CLOSED)
