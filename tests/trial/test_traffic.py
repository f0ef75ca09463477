"""Numbered messages: known to both ends, unlike each other, and found again in a stream however it was cut."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.trial.faults import Direction
from gateway.trial.traffic import GREETING, LARGE_BYTES, LineReader, Numbered, Traffic

TRAFFIC = Traffic(42)
directions = st.sampled_from(sorted(Direction))
clients = st.integers(0, 999)
numbers = st.integers(GREETING, 100_000)


@given(directions, clients, numbers)
def test_a_message_says_whose_it_is_and_which_and_is_one_line(direction: Direction, client: int, number: int) -> None:
    message = TRAFFIC.message(direction, client, number)
    assert TRAFFIC.read(message) == Numbered(direction, client, number)
    assert message.endswith(b"\n")
    assert message.count(b"\n") == 1
    assert message.isascii()


@given(directions, clients, numbers, st.data())
def test_one_wrong_byte_makes_it_nobodys_message(
    direction: Direction, client: int, number: int, data: st.DataObject
) -> None:
    message = bytearray(TRAFFIC.message(direction, client, number))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    assert TRAFFIC.read(bytes(message)) != Numbered(direction, client, number)


def test_messages_of_another_trial_are_nobodys() -> None:
    other = Traffic(43)
    assert sum(TRAFFIC.read(other.message(Direction.UPSTREAM, 1, number)) is None for number in range(1, 101)) > 90


def test_most_messages_are_small_and_some_are_large() -> None:
    sizes = sorted(len(TRAFFIC.message(Direction.UPSTREAM, 3, number)) for number in range(1, 2001))
    assert sizes[1000] < 250
    assert sizes[-1] > LARGE_BYTES // 4
    assert sizes[-3] < LARGE_BYTES // 4  # one in a thousand


def test_what_is_no_message_at_all_is_nobodys() -> None:
    for line in (b"", b"\n", b"u 1 2", b"x 1 2 \n", b"u one 2 \n", b"u 1 -2 \n", b"\xff\xfe \n"):
        assert TRAFFIC.read(line) is None


@given(
    st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b".").replace(b"\r", b".") + b"\n")), st.data()
)
def test_lines_come_out_of_a_stream_however_it_was_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = LineReader()
    found: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[begin:end])
    assert found == lines
