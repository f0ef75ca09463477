"""Who waits to be admitted, and who goes for whom."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.anteroom import Anteroom, Guest


class Door:
    """Remembers who was sent away."""

    def __init__(self, *, limit: int = 4, group_limit: int = 3) -> None:
        self.anteroom = Anteroom(limit=limit, group_limit=group_limit)
        self.gone: list[str] = []

    def enter(self, name: str, group: str | None = "a") -> Guest | None:
        return self.anteroom.enter(group, lambda: self.gone.append(name))

    def must_enter(self, name: str, group: str | None = "a") -> Guest:
        guest = self.enter(name, group)
        assert guest is not None
        return guest


def test_of_a_group_that_has_its_share_the_oldest_silent_one_goes() -> None:
    door = Door()
    first = door.must_enter("first")
    for name in ("second", "third", "fourth"):
        assert door.enter(name) is not None
    assert door.gone == ["first"]
    assert first.has_left
    assert door.anteroom.of_group("a") == 3
    assert (door.anteroom.sent_away, door.anteroom.turned_away) == (1, 0)


def test_who_has_begun_to_speak_is_not_sent_away_for_its_own_group() -> None:
    door = Door()
    door.must_enter("first").speaks()
    door.must_enter("second")
    door.must_enter("third").speaks()
    assert door.enter("fourth") is not None
    assert door.gone == ["second"]


def test_a_group_whose_share_speaks_gets_no_more() -> None:
    door = Door()
    for name in ("first", "second", "third"):
        door.must_enter(name).speaks()
    assert door.enter("fourth") is None
    assert door.anteroom.turned_away == 1
    assert door.enter("other", "b") is not None


def test_in_all_the_oldest_silent_one_goes_whosever_it_is() -> None:
    door = Door()
    door.must_enter("b1", "b")
    for name in ("a1", "a2", "a3"):
        door.must_enter(name)
    assert door.enter("c1", "c") is not None
    assert door.gone == ["b1"]


def test_where_all_speak_the_largest_group_gives_way_to_a_smaller_one() -> None:
    door = Door()
    door.must_enter("b1", "b").speaks()
    for name in ("a1", "a2", "a3"):
        door.must_enter(name).speaks()
    door.must_enter("c1", "c").speaks()
    assert door.gone == ["a1"]
    assert door.enter("b2", "b") is None  # no group has two more than it would have


def test_who_is_waited_for_again_is_the_youngest_of_the_silent() -> None:
    door = Door(group_limit=2)
    first = door.must_enter("first")
    first.speaks()
    door.must_enter("second")
    first.is_waited_for()
    door.must_enter("third")
    assert door.gone == ["second"]


def test_those_that_nobody_can_tell_apart_have_no_share_but_count() -> None:
    door = Door()
    for number in range(4):
        assert door.enter(str(number), None) is not None
    assert door.enter("more", None) is not None
    assert door.gone == ["0"]
    assert len(door.anteroom) == 4


@given(st.lists(st.tuples(st.sampled_from("esqlw"), st.sampled_from("abcde"), st.integers(0, 20)), max_size=60))
def test_the_counts_are_those_of_the_guests(steps: list[tuple[str, str, int]]) -> None:
    door = Door(limit=6, group_limit=3)
    guests: list[Guest] = []
    for step, group, index in steps:
        if step == "e":
            guest = door.enter("x", group)
            if guest is not None:
                guests.append(guest)
        elif guests:
            guest = guests[index % len(guests)]
            {"s": guest.speaks, "q": guest.is_waited_for, "l": guest.leave, "w": guest.send_away}[step]()
        here = [guest for guest in guests if not guest.has_left]
        assert len(door.anteroom) == len(here) <= 6
        for name in "abcde":
            assert door.anteroom.of_group(name) == sum(guest.group == name for guest in here) <= 3
