"""What is said of a fault that comes with every request."""

from gateway.telemetry.repetition import INTERVAL_SECONDS, KEPT_KEYS, Repetition


def test_the_first_is_said_at_once_and_the_next_one_a_minute_later_with_all_between() -> None:
    repetition = Repetition()
    assert repetition.count("proxy", 100.0) == 1
    assert [repetition.count("proxy", 100.0 + second) for second in range(1, 60)] == [0] * 59
    assert repetition.count("proxy", 100.0 + INTERVAL_SECONDS) == 60
    assert repetition.count("proxy", 101.0 + INTERVAL_SECONDS) == 0
    assert repetition.count("proxy", 500.0) == 2


def test_one_key_does_not_silence_another() -> None:
    repetition = Repetition()
    assert [repetition.count(key, 0.0) for key in ("one", "another", "one")] == [1, 1, 0]


def test_what_it_keeps_is_bounded_and_the_one_said_longest_ago_is_said_again() -> None:
    repetition = Repetition()
    assert all(repetition.count(str(number), 1.0) == 1 for number in range(KEPT_KEYS + 1))
    assert repetition.count(str(KEPT_KEYS), 2.0) == 0
    assert repetition.count("0", 2.0) == 1
