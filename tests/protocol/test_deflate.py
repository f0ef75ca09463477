"""permessage-deflate: negotiation by the letter of RFC 7692, and bounded inflation of whatever may arrive."""

import random
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.protocol import deflate
from gateway.protocol.deflate import (
    FINAL_BLOCK_COST_BYTES,
    MODEST,
    TAIL,
    DeflateParameters,
    Deflater,
    Inflater,
    check_answer,
    negotiate,
    offer,
)
from gateway.protocol.negotiation import ExtensionOffer, format_extensions, parse_extensions
from tests.support.memory import peak_bytes

GENEROUS = DeflateParameters()


def offers(text: str) -> tuple[ExtensionOffer, ...]:
    return parse_extensions([text])


def answer_to(text: str, wanted: DeflateParameters = GENEROUS) -> str | None:
    agreed = negotiate(offers(text), wanted)
    return None if agreed is None else str(agreed[1])


def agreement_on(text: str, wanted: DeflateParameters = GENEROUS) -> DeflateParameters:
    agreed = negotiate(offers(text), wanted)
    assert agreed is not None
    return agreed[0]


# --- negotiation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=15", "permessage-deflate; server_max_window_bits=15"),
        ('permessage-deflate; server_max_window_bits="8"', "permessage-deflate; server_max_window_bits=8"),
        ("permessage-deflate; client_max_window_bits=9", "permessage-deflate; client_max_window_bits=9"),
        ("permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"),
        (
            "permessage-deflate; client_max_window_bits; server_no_context_takeover; server_max_window_bits=12",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12",
        ),
    ],
)
def test_a_server_accepts_what_was_offered_and_says_no_more_than_it_must(offered: str, answer: str) -> None:
    assert answer_to(offered) == answer


@pytest.mark.parametrize(
    "parameters",
    [
        "unknown",
        "unknown=1",
        "Server_No_Context_Takeover",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=10",
        "server_max_window_bits=10; server_max_window_bits=10",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=+10",
        "server_max_window_bits=1e1",
        "client_max_window_bits=0",
        "client_max_window_bits=16",
        "client_max_window_bits=x",
    ],
)
def test_an_offer_with_a_parameter_that_is_wrong_is_declined_and_the_next_one_taken(parameters: str) -> None:
    assert answer_to(f"permessage-deflate; {parameters}") is None
    assert answer_to(f"permessage-deflate; {parameters}, permessage-deflate; server_max_window_bits=11") == (
        "permessage-deflate; server_max_window_bits=11"
    )


def test_other_extensions_are_passed_over_and_the_first_good_offer_wins() -> None:
    assert negotiate(()) is None
    assert negotiate(offers("x-webkit-deflate-frame, permessage-bzip2")) is None
    text = "foo, permessage-deflate; server_no_context_takeover, permessage-deflate"
    assert answer_to(text) == "permessage-deflate; server_no_context_takeover"


def test_a_server_caps_its_own_window_unasked_but_a_clients_only_if_it_said_it_can() -> None:
    assert answer_to("permessage-deflate", MODEST) == "permessage-deflate; server_max_window_bits=12"
    assert agreement_on("permessage-deflate", MODEST).client_max_window_bits == 15
    both = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
    assert answer_to("permessage-deflate; client_max_window_bits", MODEST) == both
    assert answer_to("permessage-deflate; client_max_window_bits=14; server_max_window_bits=13", MODEST) == both
    smaller = "permessage-deflate; client_max_window_bits=8; server_max_window_bits=9"
    assert agreement_on(smaller, MODEST) == replace(MODEST, server_max_window_bits=9, client_max_window_bits=8)


def test_a_server_may_ask_for_no_context_takeover() -> None:
    wanted = DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)
    assert agreement_on("permessage-deflate", wanted) == wanted
    assert answer_to("permessage-deflate", wanted) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    )


def test_a_client_offers_what_it_wants() -> None:
    assert format_extensions(offer(GENEROUS)) == "permessage-deflate; client_max_window_bits"
    wanted = DeflateParameters(server_no_context_takeover=True, server_max_window_bits=11, client_max_window_bits=10)
    assert format_extensions(offer(wanted)) == (
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=11; client_max_window_bits=10"
    )


bits = st.integers(8, 15)
parameters = st.builds(
    DeflateParameters,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=bits,
    client_max_window_bits=bits,
)


@given(client=parameters, server=parameters)
def test_both_sides_come_to_the_same_agreement(client: DeflateParameters, server: DeflateParameters) -> None:
    header = format_extensions(offer(client))
    agreed = negotiate(parse_extensions([header]), server)
    assert agreed is not None
    assert check_answer(parse_extensions([str(agreed[1])]), client) == agreed[0]
    assert agreed[0].server_max_window_bits <= min(client.server_max_window_bits, server.server_max_window_bits)
    assert agreed[0].client_max_window_bits <= min(client.client_max_window_bits, server.client_max_window_bits)


def test_a_client_takes_a_declined_offer() -> None:
    assert check_answer(()) is None
    assert check_answer(offers("foo")) is None


@pytest.mark.parametrize(
    ("wanted", "answer", "fault"),
    [
        (GENEROUS, "permessage-deflate, permessage-deflate", "more than once"),
        (GENEROUS, "permessage-deflate; foo", "unknown parameter foo"),
        (GENEROUS, "permessage-deflate; client_max_window_bits", "must be 8 to 15"),
        (GENEROUS, "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10", "more than once"),
        (MODEST, "permessage-deflate", "server_max_window_bits must be 12"),
        (MODEST, "permessage-deflate; server_max_window_bits=13", "server_max_window_bits must be 12"),
        (
            MODEST,
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=13",
            "client_max_window_bits must be 12",
        ),
        (DeflateParameters(server_no_context_takeover=True), "permessage-deflate", "was offered but not accepted"),
    ],
)
def test_a_client_refuses_an_answer_that_is_none_to_its_offer(
    wanted: DeflateParameters, answer: str, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        check_answer(offers(answer), wanted)


# --- inflating ------------------------------------------------------------------------------------------------------


def inflate(inflater: Inflater, payload: bytes, *, last: bool = True, step: int = 1 << 20) -> bytes:
    inflater.feed(payload, last=last)
    inflated = b""
    while inflater.has_more:
        part = inflater.read(step)
        assert len(part) <= step
        inflated += part
    return inflated


def fresh() -> Inflater:
    return Inflater(window_bits=15, no_context_takeover=False)


def test_inflates_the_examples_of_rfc_7692_section_7_2_3() -> None:
    hello = bytes.fromhex("f2 48 cd c9 c9 07 00")
    inflater = fresh()
    assert inflate(inflater, hello) == b"Hello"
    # 7.2.3.2: the second message refers to the first one's window.
    assert inflate(inflater, bytes.fromhex("f2 00 11 00 00")) == b"Hello"
    # 7.2.3.1: fragmented.
    assert inflate(inflater, hello[:3], last=False) + inflate(inflater, hello[3:]) == b"Hello"
    # 7.2.3.3: a block without compression.
    assert inflate(inflater, bytes.fromhex("00 05 00 fa ff 48 65 6c 6c 6f 00")) == b"Hello"
    # 7.2.3.4: a block with BFINAL.
    assert inflate(inflater, bytes.fromhex("f3 48 cd c9 c9 07 00 00")) == b"Hello"
    # 7.2.3.5: two blocks.
    assert inflate(inflater, bytes.fromhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00")) == b"Hello"
    # 7.2.3.6: empty.
    assert inflate(inflater, b"\x00") == b""
    assert inflate(inflater, hello) == b"Hello"


def test_a_message_without_context_takeover_cannot_refer_to_the_one_before() -> None:
    inflater = Inflater(window_bits=15, no_context_takeover=True)
    assert inflate(inflater, bytes.fromhex("f2 48 cd c9 c9 07 00")) == b"Hello"
    with pytest.raises(ProtocolViolation, match="not valid DEFLATE"):
        inflate(inflater, bytes.fromhex("f2 00 11 00 00"))


def test_streams_that_end_inside_a_message_are_followed_by_new_ones() -> None:
    final = zlib.compress(b"one", wbits=-15)
    for payload in (final + final + b"\x00", final + final):  # with the byte that the tail completes, and without
        inflater = fresh()
        for _ in range(3):
            assert inflate(inflater, payload) == b"oneone"
    inflater = fresh()
    assert inflate(inflater, final, last=False) == b"one"
    assert inflate(inflater, b"") == b""
    assert inflate(inflater, final[:2], last=False) + inflate(inflater, final[2:] + b"\x00") == b"one"


@pytest.mark.parametrize("step", [1, 3, 100, 4096, 65536])
def test_a_stream_may_end_where_a_read_does(step: int) -> None:
    final = zlib.compress(bytes(step * 5), wbits=-15)
    assert inflate(fresh(), final + final + b"\x00", step=step) == bytes(step * 10)
    assert inflate(fresh(), final, step=step) == bytes(step * 5)


def test_a_compressed_message_without_a_byte_is_empty_and_does_no_harm() -> None:
    inflater = fresh()
    assert inflate(inflater, b"") == b""
    assert inflate(inflater, bytes.fromhex("f2 48 cd c9 c9 07 00")) == b"Hello"


@pytest.mark.parametrize(
    "payload", [b"\xff\xff\xff", b"\x07", bytes.fromhex("00 05 00 00 00"), b"\xf2\x00\x11\x00\x00"]
)
def test_what_is_no_deflate_data_is_a_protocol_violation(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="not valid DEFLATE data"):
        inflate(fresh(), payload)


@pytest.mark.parametrize("step", [1, 2, 7, 100, 4096, 65536])
def test_reads_return_no_more_than_asked_for_and_lose_nothing(step: int) -> None:
    text = b"".join(b"%d " % number for number in range(2000)) + bytes(3000)
    deflated = Deflater(window_bits=12, no_context_takeover=False).deflate(text, last=True, flush=True)
    assert inflate(fresh(), deflated, step=step) == text
    # Output that ends exactly where a read does: zlib may still hold some back.
    zeros = bytes(step * 3)
    deflated = Deflater(window_bits=9, no_context_takeover=False).deflate(zeros, last=True, flush=True)
    assert inflate(fresh(), deflated, step=step) == zeros


def test_a_bomb_is_inflated_only_as_far_as_it_is_read() -> None:
    bomb = zlib.compress(bytes(64 << 20), wbits=-15)

    def read_some() -> None:
        inflater = fresh()
        inflater.feed(bomb, last=True)
        assert len(inflater.read(65536)) == 65536
        assert inflater.has_more

    # the read, zlib's window and state, and the 64 KiB of input with the tail behind it
    allowed = 65536 + len(bomb) + 128 * 1024
    assert peak_bytes(read_some, enough=allowed - 1) < allowed


def test_a_flood_of_ended_streams_takes_many_reads() -> None:
    inflater = fresh()
    inflater.feed(zlib.compress(b"", wbits=-15) * 1000, last=True)
    reads = 0
    while inflater.has_more:
        assert inflater.read(16 * FINAL_BLOCK_COST_BYTES) == b""
        reads += 1
    assert reads >= 1000 // 16


def test_payload_is_not_taken_before_the_last_one_was_read() -> None:
    inflater = fresh()
    inflater.feed(b"\x00", last=True)
    with pytest.raises(RuntimeError):
        inflater.feed(b"\x00", last=True)


# --- deflating ------------------------------------------------------------------------------------------------------


def test_a_deflater_cannot_have_a_window_that_zlib_has_not() -> None:
    for window_bits in (8, 16):
        with pytest.raises(ValueError, match="9 to 15"):
            Deflater(window_bits=window_bits, no_context_takeover=False)


def test_empty_messages_are_a_single_zero_byte_however_many_follow_each_other() -> None:
    deflater = Deflater(window_bits=15, no_context_takeover=False)
    assert [deflater.deflate(b"", last=True, flush=True) for _ in range(3)] == [b"\x00"] * 3
    assert deflater.deflate(b"x", last=False, flush=True).endswith(TAIL)
    assert deflater.deflate(b"", last=True, flush=True) == b"\x00"


def test_a_flush_makes_all_that_was_given_readable_at_once() -> None:
    deflater, inflater = Deflater(window_bits=15, no_context_takeover=False), fresh()
    assert inflate(inflater, deflater.deflate(b"begun", last=False, flush=True), last=False) == b"begun"
    assert inflate(inflater, deflater.deflate(b", done", last=True, flush=False)) == b", done"


def test_context_takeover_makes_repeated_messages_smaller_and_its_absence_does_not() -> None:
    message = random.Random(2).randbytes(200)
    over = Deflater(window_bits=15, no_context_takeover=False)
    first, second = (over.deflate(message, last=True, flush=True) for _ in range(2))
    assert len(second) < len(first) / 10
    alone = Deflater(window_bits=15, no_context_takeover=True)
    assert alone.deflate(message, last=True, flush=True) == alone.deflate(message, last=True, flush=True)


messages = st.lists(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), min_size=1, max_size=4), max_size=6)


@given(
    messages=messages,
    window_bits=st.integers(9, 15),
    no_context_takeover=st.booleans(),
    step=st.sampled_from([1, 3, 50, 65536]),
)
def test_what_is_deflated_is_inflated_again(
    messages: list[list[tuple[bytes, bool]]], window_bits: int, no_context_takeover: bool, step: int
) -> None:
    deflater = Deflater(window_bits=window_bits, no_context_takeover=no_context_takeover)
    inflater = Inflater(window_bits=window_bits, no_context_takeover=no_context_takeover)
    for parts in messages:
        received = b""
        for at, (part, flush) in enumerate(parts):
            last = at == len(parts) - 1
            received += inflate(inflater, deflater.deflate(part, last=last, flush=flush), last=last, step=step)
            if flush or last:
                assert received == b"".join(part for part, _ in parts[: at + 1])


def test_memory_is_taken_by_the_first_message_and_modest_windows_take_little() -> None:
    message = random.Random(3).randbytes(8192)
    ours = tracemalloc.Filter(True, deflate.__file__)  # other threads of the test process allocate too

    def taken() -> int:
        kept = tracemalloc.take_snapshot().filter_traces([ours]).statistics("filename")
        return sum(statistic.size for statistic in kept)

    tracemalloc.start()
    try:
        deflater = Deflater(window_bits=MODEST.server_max_window_bits, no_context_takeover=False)
        inflater = Inflater(window_bits=MODEST.client_max_window_bits, no_context_takeover=False)
        idle = taken()
        deflated = deflater.deflate(message, last=True, flush=True)
        assert inflate(inflater, deflated) == message
        del deflated
        used = taken()
    finally:
        tracemalloc.stop()
    assert idle < 1024
    assert 16 * 1024 < used < 64 * 1024
