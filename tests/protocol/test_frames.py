"""Both frame codecs: against RFC 6455's own examples, against a plain model, and against each other."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import MessageTooBig, ProtocolViolation
from gateway.protocol import frames
from gateway.protocol.frames import COMPRESSED, FIRST, LAST, Opcode
from tests.protocol import frame_model
from tests.protocol.codecs import BUILD, CODECS, COMPILED, PURE
from tests.protocol.wire import WHOLE, cut, decode, error_of, frame, key, single_bytes, wire
from tests.support.memory import peak_bytes
from tests.support.peers.wire import KEY

both = pytest.mark.parametrize("codec", CODECS)


# --- decoding -------------------------------------------------------------------------------------------------------


@both
def test_decodes_the_examples_of_rfc_6455_section_5_7(codec: ModuleType) -> None:
    unmasked = bytes.fromhex("81 05 48 65 6c 6c 6f")
    masked = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")
    fragmented = bytes.fromhex("01 03 48 65 6c 80 02 6c 6f")
    ping = bytes.fromhex("89 05 48 65 6c 6c 6f")
    pong = bytes.fromhex("8a 85 37 fa 21 3d 7f 9f 4d 51 58")
    assert decode(codec, [unmasked], masked=False)[0] == [(1, b"Hello", WHOLE)]
    assert decode(codec, [masked])[0] == [(1, b"Hello", WHOLE)]
    assert decode(codec, [fragmented], masked=False)[0] == [(1, b"Hel", FIRST), (1, b"lo", LAST)]
    assert decode(codec, [ping], masked=False)[0] == [(9, b"Hello", WHOLE)]
    assert decode(codec, [pong])[0] == [(10, b"Hello", WHOLE)]
    for size, header in ((256, "82 7E 0100"), (65536, "82 7F 0000000000010000")):
        data = bytes.fromhex(header) + bytes(size)
        assert decode(codec, [data], masked=False)[0] == [(2, bytes(size), WHOLE)]


@both
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_frames_are_counted_whatever_they_are(codec: ModuleType, step: int) -> None:
    data = b"".join(
        (
            frame(2, b"begins", fin=False, mask=KEY),
            frame(9, b"", mask=KEY),
            *[frame(0, b"", fin=False, mask=KEY)] * 5,
            frame(10, b"unasked", mask=KEY),
            frame(0, b"ends", mask=KEY),
            frame(1, bytes(300), mask=KEY),
            frame(8, b"", mask=KEY),
            frame(1, b"late", mask=KEY),
        )
    )
    _, decoder = decode(codec, [data[at : at + step] for at in range(0, len(data), step)])
    assert decoder.frames == 11


@both
@pytest.mark.parametrize("in_message", [False, True])
@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_every_first_byte_with_every_kind_of_second_is_judged_as_the_model_does(
    codec: ModuleType, masked: bool, compression: bool, in_message: bool
) -> None:
    before = frame(2, b"x", fin=False, mask=KEY if masked else None) if in_message else b""
    seconds = [bit | length for bit in (0, 0x80) for length in (0, 1, 2, 125, 126, 127)]
    for first in range(256):
        for second in seconds:
            data = before + bytes((first, second)) + b"\x01\x02\x03\x04\x41\x42"
            expected = frame_model.decode(data, masked=masked, compression=compression)
            pieces, decoder = decode(codec, [data], masked=masked, compression=compression)
            assert frame_model.merged(pieces) == frame_model.merged(expected.pieces), data
            assert (decoder.error and type(decoder.error)) == expected.error, data
            assert (decoder.closed, decoder.in_message) == (expected.closed, expected.in_message), data


@both
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 9, 125, 126, 127, 65535, 65536, 65537])
def test_a_frame_of_any_length_form_and_mask_alignment_passes(codec: ModuleType, size: int) -> None:
    payload = bytes(at % 251 for at in range(size))
    assert decode(codec, [frame(2, payload)])[0] == [(2, payload, WHOLE)]
    for at in (1, 2, 3, 5, 6, 7, 11, 14, 15, 17):
        data = frame(2, payload)
        pieces, _ = decode(codec, [data[:at], data[at:]])
        assert frame_model.merged(pieces) == [(2, payload, WHOLE)], at


@both
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (frame(2, bytes(125), width=2), "125 bytes not in the shortest form"),
        (frame(2, b"", width=2), "0 bytes not in the shortest form"),
        (frame(2, b"", announced=65535, width=8), "65535 bytes not in the shortest form"),
        (frame(2, b"", announced=2**63, width=8), "most significant bit"),
        (frame(2, b"", announced=2**64 - 1, width=8), "most significant bit"),
        (frame(9, b"", announced=126, width=2), "PING frame announces more than 125"),
        (frame(8, b"", announced=65536, width=8), "CLOSE frame announces more than 125"),
        (frame(10, b"x", fin=False), "PONG frame is fragmented"),
        (frame(2, b"x", rsv=4), "RSV1"),
        (frame(2, b"x", rsv=2), "RSV2"),
        (frame(2, b"x", rsv=1), "RSV3"),
        (frame(3), "opcode 0x3"),
        (frame(15), "opcode 0xF"),
        (frame(0, b"x"), "without a message"),
        (frame(1, b"x", fin=False) + frame(1, b"y"), "TEXT frame inside"),
        (frame(1, b"x", mask=None), "not masked"),
    ],
)
def test_an_illegal_header_is_a_protocol_violation_that_says_why(codec: ModuleType, data: bytes, text: str) -> None:
    for reads in ([data], single_bytes(data)):
        error = decode(codec, reads)[1].error
        assert isinstance(error, ProtocolViolation)
        assert text in str(error)


@both
def test_a_masked_frame_from_a_server_is_refused(codec: ModuleType) -> None:
    error = error_of(codec, frame(2, b"x"), masked=False)
    assert isinstance(error, ProtocolViolation)
    assert "server is masked" in str(error)


@both
def test_rsv1_is_for_the_first_frame_of_a_data_message_only_and_marks_all_its_pieces(codec: ModuleType) -> None:
    data = frame(1, b"\xff\xfe", rsv=4, fin=False) + frame(9, b"p") + frame(0, b"\xff")
    assert decode(codec, [data], compression=True)[0] == [
        (1, b"\xff\xfe", FIRST | COMPRESSED),
        (9, b"p", WHOLE),
        (1, b"\xff", LAST | COMPRESSED),
    ]
    begun = frame(1, b"x", rsv=4, fin=False)
    assert "CONTINUATION frame has RSV1" in str(error_of(codec, begun + frame(0, rsv=4), compression=True))
    assert "PING frame has RSV1" in str(error_of(codec, frame(9, rsv=4), compression=True))
    # The next message is a matter of its own.
    assert decode(codec, [frame(1, b"x", rsv=4) + frame(1, b"y")], compression=True)[0][1] == (1, b"y", WHOLE)


@both
def test_what_is_good_before_a_fault_is_returned_and_nothing_after_it(codec: ModuleType) -> None:
    decoder = codec.FrameDecoder(masked=True)
    assert decoder.feed(frame(2, b"good") + frame(3) + frame(2, b"late")) == [(2, b"good", WHOLE)]
    fault = decoder.error
    assert decoder.feed(frame(2, b"later")) == []
    assert decoder.error is fault


@both
def test_a_header_fails_as_soon_as_the_bad_byte_is_there(codec: ModuleType) -> None:
    decoder = codec.FrameDecoder(masked=True)
    decoder.feed(b"\x83")
    assert decoder.error is not None
    decoder = codec.FrameDecoder(masked=True)
    decoder.feed(b"\x82\x05")
    assert decoder.error is not None
    decoder = codec.FrameDecoder(masked=True, message_bytes=1000)
    decoder.feed(b"\x82\xfe\x03\xe9")
    assert isinstance(decoder.error, MessageTooBig)


@both
def test_nothing_is_decoded_after_a_close_frame(codec: ModuleType) -> None:
    decoder = codec.FrameDecoder(masked=True)
    assert decoder.feed(frame(8, b"\x03\xe8") + frame(2, b"late") + b"\xff") == [(8, b"\x03\xe8", WHOLE)]
    assert decoder.closed
    assert decoder.feed(b"\xff\xff\xff") == []
    assert decoder.error is None


@both
def test_payload_is_handed_on_as_it_arrives_and_control_frames_whole(codec: ModuleType) -> None:
    decoder = codec.FrameDecoder(masked=True)
    data = frame(2, b"abcdef", fin=False)
    assert decoder.feed(data[:8]) == [(2, b"ab", FIRST)]
    assert decoder.in_message
    assert decoder.feed(data[8:9]) == [(2, b"c", 0)]
    assert decoder.feed(data[9:]) == [(2, b"def", 0)]
    ping = frame(9, b"p" * 125)
    assert [decoder.feed(byte) for byte in single_bytes(ping[:-1])] == [[]] * 130
    assert decoder.feed(ping[-1:]) == [(9, b"p" * 125, WHOLE)]
    assert decoder.in_message
    assert decoder.feed(frame(0, b"g")) == [(2, b"g", LAST)]
    assert not decoder.in_message


@both
def test_a_message_begins_with_its_first_byte_and_empty_fragments_yield_no_piece(codec: ModuleType) -> None:
    data = frame(2, fin=False) + frame(0, fin=False) * 1000 + frame(0, b"x", fin=False) + frame(0, fin=False) + frame(0)
    assert decode(codec, [data])[0] == [(2, b"x", FIRST), (2, b"", LAST)]
    assert decode(codec, [frame(1, fin=False) + frame(0)])[0] == [(1, b"", WHOLE)]


@both
def test_any_contiguous_buffer_may_be_fed_and_reused(codec: ModuleType) -> None:
    shared = bytearray(frame(2, b"abc") + b"\x82")
    for view in (memoryview(shared), shared):
        decoder = codec.FrameDecoder(masked=True)
        pieces = decoder.feed(view)
        saved = bytes(shared)
        shared[:] = bytes(len(shared))
        pieces += decoder.feed(memoryview(frame(2, b"def"))[1:])
        assert pieces == [(2, b"abc", WHOLE), (2, b"def", WHOLE)]
        shared[:] = saved
    for wrong in (None, "text", 5):
        with pytest.raises(TypeError):
            codec.FrameDecoder(masked=True).feed(wrong)


@both
def test_memory_stays_bounded_whatever_is_announced(codec: ModuleType) -> None:
    read = bytes(65536)

    def feed() -> None:
        decoder = codec.FrameDecoder(masked=True)
        decoder.feed(frame(2, announced=2**63 - 1, width=8))
        for _ in range(256):
            decoder.feed(read)

    # 16 MiB went through; a read, its copies and its numbers (the pure codec unmasks by big integers) are allowed.
    allowed = 8 * len(read)
    assert peak_bytes(feed, enough=allowed - 1) < allowed


# --- limits ---------------------------------------------------------------------------------------------------------


@both
def test_a_message_too_big_fails_at_the_header_that_exceeds_the_limit(codec: ModuleType) -> None:
    assert error_of(codec, frame(2, bytes(10)), message_bytes=10) is None
    pieces, decoder = decode(codec, [frame(2, bytes(6), fin=False) + frame(0, announced=5)], message_bytes=10)
    assert pieces == [(2, bytes(6), FIRST)]
    assert isinstance(decoder.error, MessageTooBig)
    assert str(decoder.error) == "message of 11 bytes or more exceeds the limit of 10 bytes"
    assert error_of(codec, frame(2, bytes(6)) * 5, message_bytes=10) is None
    assert isinstance(error_of(codec, frame(2, announced=2**63 - 1, width=8), message_bytes=10), MessageTooBig)
    # No message holds more than RFC 6455 can announce, so that sums stay within 64 bits.
    overflow = frame(2, b"x", fin=False) + frame(0, announced=2**63 - 1, width=8)
    assert isinstance(error_of(codec, overflow), MessageTooBig)
    assert isinstance(error_of(codec, overflow, message_bytes=2**70), MessageTooBig)


@both
def test_a_limit_of_zero_lets_empty_messages_and_control_frames_pass(codec: ModuleType) -> None:
    pieces, decoder = decode(codec, [frame(2) + frame(9, b"ping") + frame(1, b"x")], message_bytes=0)
    assert pieces == [(2, b"", WHOLE), (9, b"ping", WHOLE)]
    assert isinstance(decoder.error, MessageTooBig)
    with pytest.raises(ValueError, match="negative"):
        codec.FrameDecoder(masked=True, message_bytes=-1)


@both
def test_the_limit_is_not_for_the_compressed_size(codec: ModuleType) -> None:
    assert error_of(codec, frame(2, bytes(11), rsv=4), message_bytes=10, compression=True) is None


# --- against the model, and each other --------------------------------------------------------------------------------


@both
@given(case=wire(), cuts=st.lists(st.integers(0, 400), max_size=6))
@example(case=(b"", {"masked": True}), cuts=[])
def test_decoder_agrees_with_the_model_however_the_input_is_cut(
    codec: ModuleType, case: tuple[bytes, dict[str, Any]], cuts: list[int]
) -> None:
    data, options = case
    expected = frame_model.decode(data, **options)
    for reads in ([data], cut(data, cuts), single_bytes(data)):
        pieces, decoder = decode(codec, reads, **options)
        assert frame_model.merged(pieces) == frame_model.merged(expected.pieces)
        assert (decoder.error and type(decoder.error)) == expected.error
        assert decoder.closed == expected.closed
        assert decoder.in_message == expected.in_message
        assert all(type(payload) is bytes and (payload or flags & LAST) for _, payload, flags in pieces)


@both
def test_decoder_agrees_with_the_model_at_every_boundary_of_a_long_stream(codec: ModuleType) -> None:
    data = (
        frame(1, "書留".encode(), fin=False)
        + frame(9, b"")
        + frame(0, b"x" * 200, fin=False)
        + frame(10, b"p" * 125)
        + frame(0, "😀".encode())
        + frame(2, bytes(range(256)) * 257)
        + frame(8, b"\x03\xe8bye")
    )
    expected = frame_model.merged(frame_model.decode(data).pieces)
    tail = len(data) - 200
    for at in [*range(700), *range(tail, len(data))]:
        pieces, decoder = decode(codec, [data[:at], data[at:]])
        assert frame_model.merged(pieces) == expected, at
        assert decoder.error is None
        assert decoder.closed


@pytest.mark.skipif(COMPILED is None, reason=BUILD)
@given(case=wire(), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_both_codecs_return_the_same_pieces_and_words(case: tuple[bytes, dict[str, Any]], cuts: list[int]) -> None:
    assert COMPILED is not None
    data, options = case
    pure, compiled = PURE.FrameDecoder(**options), COMPILED.FrameDecoder(**options)
    for read in cut(data, cuts):
        assert pure.feed(read) == compiled.feed(read)
        assert repr(pure.error) == repr(compiled.error)
        assert (pure.closed, pure.in_message, pure.frames) == (compiled.closed, compiled.in_message, compiled.frames)


# --- encoding -------------------------------------------------------------------------------------------------------


@both
def test_encodes_the_examples_of_rfc_6455_section_5_7(codec: ModuleType) -> None:
    encode = codec.encode_pieces
    assert encode([(1, b"Hello", WHOLE)]).hex(" ") == "81 05 48 65 6c 6c 6f"
    assert encode([(1, b"Hello", WHOLE)], key).hex(" ") == "81 85 37 fa 21 3d 7f 9f 4d 51 58"
    assert encode([(1, b"Hel", FIRST), (1, b"lo", LAST)]).hex(" ") == "01 03 48 65 6c 80 02 6c 6f"
    assert encode([(10, b"Hello", WHOLE)], key).hex(" ") == "8a 85 37 fa 21 3d 7f 9f 4d 51 58"
    assert encode([(2, bytes(256), WHOLE)])[:4].hex(" ") == "82 7e 01 00"
    assert encode([(2, bytes(65536), WHOLE)])[:10].hex(" ") == "82 7f 00 00 00 00 00 01 00 00"


@both
def test_encodes_every_length_form_and_flag(codec: ModuleType) -> None:
    for size in (0, 125, 126, 65535, 65536):
        payload = bytes(at % 253 for at in range(size))
        for mask in (None, key):
            encoded = codec.encode_pieces(((2, payload, WHOLE),), mask)
            assert encoded == frame(2, payload, mask=mask and KEY)
    compressed = [(1, b"a", FIRST | COMPRESSED), (1, b"b", COMPRESSED), (1, b"c", LAST | COMPRESSED)]
    assert codec.encode_pieces(compressed) == b"\x41\x01a" + b"\x00\x01b" + b"\x80\x01c"
    assert codec.encode_pieces([(Opcode.PING, b"", WHOLE)]) == b"\x89\x00"
    assert codec.encode_pieces([]) == b""
    assert codec.encode_pieces([], key) == b""


@both
def test_each_frame_has_a_key_of_its_own(codec: ModuleType) -> None:
    keys = iter([b"abcd", b"\0\0\0\0"])
    assert codec.encode_pieces([(2, b"abcd", FIRST), (2, b"x", LAST)], keys.__next__) == (
        b"\x02\x84abcd\0\0\0\0" + b"\x80\x81\0\0\0\0x"
    )


@both
@pytest.mark.parametrize(
    ("piece", "error"),
    [
        ((0, b"", WHOLE), ValueError),
        ((3, b"", WHOLE), ValueError),
        ((-1, b"", WHOLE), ValueError),
        ((2**80, b"", WHOLE), ValueError),
        ((1, b"", 8), ValueError),
        ((1, b"", -1), ValueError),
        ((1, b"", 2**80), ValueError),
        ((9, bytes(126), WHOLE), ValueError),
        ((9, b"", LAST), ValueError),
        ((9, b"", WHOLE | COMPRESSED), ValueError),
        ((1, bytearray(b"x"), WHOLE), TypeError),
        ((1, "text", WHOLE), TypeError),
        (("1", b"", WHOLE), TypeError),
        ((1, b"", None), TypeError),
        ((1, b""), TypeError),
        ([1, b"", WHOLE], TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_legal_frame_is_not_encoded(codec: ModuleType, piece: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        codec.encode_pieces([(1, b"good", WHOLE), piece])


@both
@pytest.mark.parametrize("bad_key", [b"abc", b"abcde", bytearray(4), None])
def test_a_masking_key_must_be_4_bytes(codec: ModuleType, bad_key: Any) -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        codec.encode_pieces([(1, b"x", WHOLE)], lambda: bad_key)


@both
def test_a_list_that_changes_while_it_is_encoded_does_no_harm(codec: ModuleType) -> None:
    pieces = [(2, b"x" * 10, WHOLE)] * 3

    def shrink() -> bytes:
        pieces.clear()
        return KEY

    assert codec.encode_pieces(pieces, shrink) == frame(2, b"x" * 10) * 3


@both
@given(
    pieces=st.lists(st.tuples(st.sampled_from([1, 2]), st.text(max_size=200).map(str.encode))),
    masked=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_what_one_side_encodes_the_other_decodes(
    codec: ModuleType, pieces: list[tuple[int, bytes]], masked: bool, cuts: list[int]
) -> None:
    messages = [(opcode, payload, WHOLE) for opcode, payload in pieces]
    encoded = codec.encode_pieces(messages, key if masked else None)
    received, decoder = decode(codec, cut(encoded, cuts), masked=masked)
    assert decoder.error is None
    assert frame_model.merged(received) == messages


# --- the choice -----------------------------------------------------------------------------------------------------


def test_the_codec_in_use_is_named() -> None:
    assert (frames.FrameDecoder is PURE.FrameDecoder) == (frames.CODEC == "pure")
    assert frames.CODEC in ("compiled", "pure")


def test_the_compiled_codec_is_preferred_and_the_environment_forces_the_pure_one() -> None:
    assert codec_of_a_process(KAKITOME_PURE_CODEC="1") == "pure"
    assert codec_of_a_process(KAKITOME_PURE_CODEC="") == ("pure" if COMPILED is None else "compiled")


def codec_of_a_process(**environment: str) -> str:
    command = [sys.executable, "-c", "from gateway.protocol import frames; print(frames.CODEC)"]
    env = {**os.environ, "PYTHONPATH": str(Path(frames.__file__).parents[2]), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


# --- where messages end ---------------------------------------------------------------------------------------------

PIECES = st.lists(st.tuples(st.just(2), st.binary(max_size=9), st.sampled_from([0, FIRST, LAST, WHOLE])), max_size=8)


@both
@given(pieces=PIECES, begin=st.integers(0, 2**40), overhead=st.sampled_from([0, 1, 4]))
def test_message_ends_are_the_sums_of_sizes(
    codec: ModuleType, pieces: list[frames.Piece], begin: int, overhead: int
) -> None:
    end, expected = begin, []
    for _, payload, flags in pieces:
        end += len(payload)
        if flags & LAST:
            end += overhead
            expected.append(end)
    ends, last = codec.message_ends(pieces, begin, overhead)
    assert (memoryview(ends).cast("Q").tolist(), last) == (expected, end)


@both
@pytest.mark.parametrize(
    "piece", [None, (2, b""), [2, b"", 3], (2, "", 3), (2, bytearray(), 3), (2, b"", None)], ids=repr
)
def test_message_ends_refuse_what_is_no_piece(codec: ModuleType, piece: object) -> None:
    with pytest.raises(TypeError, match="a piece is a tuple"):
        codec.message_ends([(2, b"", 3), piece], 0, 0)
