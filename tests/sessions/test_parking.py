"""The order in which those who wait make way: checked against a slow, obvious model."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.sessions.parking import Parking

NAMES = st.sampled_from([f"session{number}" for number in range(12)])
HOLDERS = st.sampled_from(["a", "b", "c"])


def test_the_one_who_has_most_makes_way_with_its_oldest() -> None:
    parking: Parking[str] = Parking()
    for name, holder in [("1", "few"), ("2", "many"), ("3", "many"), ("4", "few"), ("5", "many")]:
        parking.add(name, holder, name)
    assert (len(parking), parking.count("many"), parking.count("nobody")) == (5, 3, 0)
    order = []
    while (first := parking.first_to_go()) is not None:
        order.append(first)
        parking.remove(first)
    assert order == ["2", "1", "3", "4", "5"]


def test_one_who_comes_back_and_goes_again_has_not_waited_longest() -> None:
    parking: Parking[str] = Parking()
    parking.add("first", "a", "first")
    parking.add("second", "a", "second")
    assert parking.remove("first") == "first"
    assert parking.remove("first") is None
    parking.add("first", "a", "first")
    assert parking.longest("a") == parking.first_to_go() == "second"
    assert parking.longest("b") is None


@given(st.lists(st.tuples(st.booleans(), NAMES, HOLDERS), max_size=60))
def test_it_always_knows_whose_are_most(steps: list[tuple[bool, str, str]]) -> None:
    parking: Parking[str] = Parking()
    model: list[tuple[str, str]] = []
    for adds, name, holder in steps:
        if adds:
            parking.add(name, holder, name)
            if name not in [other for other, _ in model]:
                model.append((name, holder))
        else:
            parking.remove(name)
            model = [entry for entry in model if entry[0] != name]
        assert len(parking) == len(model)
        counts = {holder: sum(whose == holder for _, whose in model) for holder in "abc"}
        assert {holder: parking.count(holder) for holder in "abc"} == counts
        most = max(counts.values())
        first = parking.first_to_go()
        oldest = {
            next(name for name, whose in model if whose == holder) for holder in "abc" if counts[holder] == most > 0
        }
        assert first in oldest if most else first is None
