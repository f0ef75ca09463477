"""The client's end of one open connection."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.exchange import Exchange
from gateway.protocol.deflate import MODEST
from gateway.protocol.messages import CloseFrame, SentAfterClose, WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece

WHOLE = FIRST | LAST
TEXT, BINARY = int(Opcode.TEXT), int(Opcode.BINARY)
PING, PONG = int(Opcode.PING), int(Opcode.PONG)


def exchange(
    *, keepalive_seconds: float | None = 20.0, close_seconds: float = 5.0
) -> tuple[Exchange, WebSocketConnection]:
    """The client's end, and a server to answer it."""
    client = Exchange(now=0.0, keepalive_seconds=keepalive_seconds, close_seconds=close_seconds)
    return client, WebSocketConnection(client=False)


def controls(server: WebSocketConnection, data: bytes) -> list[tuple[int, bytes]]:
    """(opcode, payload) of the control frames in `data`."""
    return [(int(opcode), payload) for opcode, payload, _ in server.receive_data(data) if opcode >= Opcode.CLOSE]


# --- data ---------------------------------------------------------------------------------------------------------


def test_pieces_go_both_ways_in_order() -> None:
    client, server = exchange()
    client.send([(TEXT, b"one", WHOLE)])
    client.send([(BINARY, b"two", FIRST), (BINARY, b"", LAST)])
    assert server.receive_data(client.data_to_send()) == [(TEXT, b"one", 3), (BINARY, b"two", 1), (BINARY, b"", 2)]
    assert client.data_to_send() == b""
    assert client.receive_data(server.send([(TEXT, b"three", WHOLE)]), now=1.0) == [(TEXT, b"three", WHOLE)]


@given(
    messages=st.lists(st.binary(max_size=300), max_size=6),
    cuts=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    compressed=st.booleans(),
)
def test_any_cut_of_the_stream_gives_the_same_messages(
    messages: list[bytes], cuts: list[int], compressed: bool
) -> None:
    deflate = MODEST if compressed else None
    client = Exchange(now=0.0, deflate=deflate)
    server = WebSocketConnection(client=False, deflate=deflate)
    stream = b"".join(
        server.send([(BINARY, message, WHOLE)]) + server.send([(PING, b"between", WHOLE)]) for message in messages
    )
    pieces: list[Piece] = []
    index = 0
    while stream:
        size = cuts[index % len(cuts)]
        pieces += client.receive_data(stream[:size], now=0.0)
        stream = stream[size:]
        index += 1
    gathered, message = [], b""
    for _, payload, flags in pieces:
        message += payload
        if flags & LAST:
            gathered.append(message)
            message = b""
    assert gathered == messages


def test_a_compressed_message_is_had_whole_however_far_it_expands() -> None:
    client = Exchange(now=0.0, deflate=MODEST)
    server = WebSocketConnection(client=False, deflate=MODEST)
    pieces = client.receive_data(server.send([(BINARY, bytes(3 << 20), WHOLE)]), now=1.0)
    assert sum(len(payload) for _, payload, _ in pieces) == 3 << 20
    assert pieces[-1][2] & LAST


# --- pings --------------------------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_payload() -> None:
    client, server = exchange()
    client.receive_data(server.send([(PING, b"abc", WHOLE)]), now=1.0)
    assert controls(server, client.data_to_send()) == [(PONG, b"abc")]
    assert client.data_to_send() == b""


def test_of_many_pings_the_newest_is_answered_so_that_a_flood_fills_no_memory() -> None:
    client, server = exchange()
    for number in range(1000):
        client.receive_data(server.send([(PING, str(number).encode(), WHOLE)]), now=1.0)
    assert controls(server, client.data_to_send()) == [(PONG, b"999")]


def test_a_ping_behind_our_close_is_not_answered() -> None:
    client, server = exchange()
    client.close(1000, now=1.0)
    client.receive_data(server.send([(PING, b"abc", WHOLE)]), now=1.0)
    assert controls(server, client.data_to_send()) == [(int(Opcode.CLOSE), b"\x03\xe8")]


def test_a_pong_answers_its_ping_and_all_before() -> None:
    client, server = exchange()
    assert [client.ping(), client.ping(), client.ping()] == [1, 2, 3]
    pings = controls(server, client.data_to_send())
    assert len({payload for _, payload in pings}) == 3
    client.receive_data(server.send([(PONG, pings[1][1], WHOLE)]), now=1.0)
    assert client.pings_answered == 2
    client.receive_data(server.send([(PONG, pings[2][1], WHOLE)]), now=1.0)
    assert client.pings_answered == 3


def test_a_pong_that_nobody_asked_for_says_nothing() -> None:
    client, server = exchange()
    client.ping()
    client.receive_data(server.send([(PONG, b"forged", WHOLE), (PONG, b"", WHOLE)]), now=1.0)
    assert client.pings_answered == 0


# --- closing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1012, 4001, None])
def test_a_close_is_answered_with_its_code_when_the_owner_says_so(code: int | None) -> None:
    client, server = exchange()
    client.receive_data(server.close(code, "because" if code else ""), now=3.0)
    assert client.ending == CloseFrame(code=code or 1005, reason="because" if code else "")
    assert client.data_to_send() == b""
    assert client.can_send
    client.echo_close(now=3.0)
    server.receive_data(client.data_to_send())
    assert server.close_received == CloseFrame(code=code or 1005)
    assert not client.can_send


def test_what_was_sent_leaves_before_our_close() -> None:
    client, server = exchange()
    client.send([(TEXT, b"last words", WHOLE)])
    client.close(1000, "done", now=1.0)
    pieces = server.receive_data(client.data_to_send())
    assert [int(opcode) for opcode, _, _ in pieces] == [TEXT, int(Opcode.CLOSE)]
    with pytest.raises(SentAfterClose):
        client.send([(TEXT, b"too late", WHOLE)])


def test_the_server_may_go_on_until_it_answers_our_close() -> None:
    client, server = exchange()
    client.close(1000, now=1.0)
    assert client.receive_data(server.send([(TEXT, b"still", WHOLE)]), now=1.0) == [(TEXT, b"still", WHOLE)]
    assert client.ending is None
    server.receive_data(client.data_to_send())
    client.receive_data(server.close(1000), now=2.0)
    assert client.ending == CloseFrame(code=1000)


def test_a_fault_of_the_servers_is_named_in_our_close() -> None:
    client, server = exchange()
    good = server.send([(TEXT, b"good", WHOLE)])
    assert client.receive_data(good + b"\x81\x01\xff", now=1.0) == [(TEXT, b"good", WHOLE)]
    assert client.fault is not None
    assert client.ending == CloseFrame(code=1007, reason=client.fault.close_reason)
    server.receive_data(client.data_to_send())
    assert server.close_received == client.ending
    assert client.receive_data(good, now=1.0) == []


def test_a_message_above_the_limit_is_refused_with_1009() -> None:
    client = Exchange(now=0.0, message_bytes=10)
    server = WebSocketConnection(client=False)
    client.receive_data(server.send([(BINARY, b"x" * 11, WHOLE)]), now=1.0)
    assert client.ending is not None
    assert client.ending.code == 1009


def test_an_end_without_a_close_is_1006_and_does_not_hide_one() -> None:
    client, server = exchange()
    client.receive_eof()
    assert client.ending == CloseFrame(code=1006)
    client, server = exchange()
    client.receive_data(server.close(4000), now=1.0)
    client.receive_eof()
    assert client.ending == CloseFrame(code=4000)


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_silent_server_is_pinged_and_then_given_up() -> None:
    client, server = exchange(keepalive_seconds=20.0)
    assert client.deadline == 20.0
    assert not client.check(now=19.9)
    assert client.data_to_send() == b""
    assert not client.check(now=20.0)
    assert [opcode for opcode, _ in controls(server, client.data_to_send())] == [PING]
    assert client.deadline == 40.0
    assert not client.check(now=39.0)
    assert client.data_to_send() == b""
    assert client.check(now=40.0)
    assert client.ending == CloseFrame(code=1006, reason="the server did not answer a ping")


def test_anything_that_comes_is_a_sign_of_life() -> None:
    client, server = exchange(keepalive_seconds=20.0)
    client.check(now=20.0)
    client.receive_data(server.send([(TEXT, b"x", FIRST)]), now=39.0)
    assert client.deadline == 59.0
    assert not client.check(now=40.0)


def test_silence_means_nothing_while_we_do_not_read() -> None:
    client, _ = exchange(keepalive_seconds=20.0)
    client.check(now=20.0)
    client.data_to_send()
    assert not client.check(now=40.0, paused=True)
    assert client.deadline == 60.0
    assert client.data_to_send() == b""


def test_without_a_keepalive_nothing_is_ever_asked() -> None:
    client, _ = exchange(keepalive_seconds=None)
    assert client.deadline == math.inf
    assert not client.check(now=1e9)
    assert client.data_to_send() == b""


@pytest.mark.parametrize("by_us", [True, False])
def test_a_close_has_a_time_limit_whoever_began(by_us: bool) -> None:
    client, server = exchange(close_seconds=5.0)
    if by_us:
        client.close(1000, now=7.0)
    else:
        client.receive_data(server.close(1000), now=7.0)
        client.echo_close(now=8.0)
    assert client.deadline == 12.0
    assert not client.check(now=11.9)
    assert client.check(now=12.0)
    assert client.ending == CloseFrame(code=1006 if by_us else 1000)


def test_a_close_is_waited_for_while_the_server_goes_on_and_no_longer_than_its_total() -> None:
    client, server = exchange(close_seconds=5.0)
    client.close(1000, now=0.0)
    for now in range(4, 60, 4):
        assert not client.check(now=now)
        client.receive_data(server.send([(TEXT, b"x", WHOLE)]), now=now)
    assert client.deadline == 60.0
    assert client.check(now=60.0)


def test_a_close_that_is_held_back_for_the_application_is_waited_for_without_a_sign_of_life() -> None:
    client, server = exchange(close_seconds=5.0)
    client.receive_data(server.close(1000), now=10.0)
    client.holds_close = True
    assert client.deadline == 70.0
    client.echo_close(now=50.0)
    assert client.deadline == 55.0, "from now on it is the server that is waited for"


def test_a_close_that_is_held_back_for_ever_is_not() -> None:
    client, server = exchange(close_seconds=5.0)
    client.receive_data(server.close(1000), now=10.0)
    client.holds_close = True
    assert not client.check(now=69.0, progressed=True)
    assert client.check(now=70.0, progressed=True)


def test_what_the_server_acknowledges_is_a_sign_of_life() -> None:
    client, _ = exchange(keepalive_seconds=20.0, close_seconds=5.0)
    client.check(now=20.0)
    assert not client.check(now=40.0, progressed=True)
    assert client.deadline == 60.0
    client.close(1000, now=50.0)
    assert not client.check(now=55.0, progressed=True)
    assert client.deadline == 60.0
    assert client.check(now=60.0)


def test_after_a_stall_of_ours_the_server_has_all_its_time() -> None:
    """The process was stopped for minutes; what the server said meanwhile may not have been read yet."""
    client, server = exchange(keepalive_seconds=20.0)
    assert not client.check(now=100.0)
    assert [opcode for opcode, _ in controls(server, client.data_to_send())] == [PING]
    assert client.deadline == 120.0
    assert not client.check(now=119.0)
    assert client.check(now=120.0)


def test_a_stall_after_a_ping_or_a_close_is_no_silence_of_the_servers_either() -> None:
    client, _ = exchange(keepalive_seconds=20.0, close_seconds=5.0)
    client.check(now=20.0)
    assert not client.check(now=500.0)
    assert client.deadline == 520.0
    client.close(1000, now=500.0)
    assert not client.check(now=900.0)
    assert client.deadline == 905.0
    assert client.check(now=905.0)


def test_it_is_known_whether_the_server_has_pinged_behind_all_data() -> None:
    client, server = exchange()
    known = [client.has_unfenced]
    ping, data = (PING, b"fence", WHOLE), (TEXT, b"x", WHOLE)
    for pieces in ([data], [data, ping], [ping, data]):
        client.receive_data(server.send(pieces), now=1.0)
        known.append(client.has_unfenced)
    assert known == [False, True, False, True]
