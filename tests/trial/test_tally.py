"""The books of a trial, against a slow model that keeps every event."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.trial.faults import Direction
from gateway.trial.tally import Books, DirectionReport, Tally, Told, Witness, summed

TOTAL = 6


@given(
    st.integers(0, TOTAL),
    st.lists(st.integers(-1, TOTAL + 2)),
    st.lists(st.sampled_from(sorted(Told)), min_size=TOTAL + 1, max_size=TOTAL + 1),
)
def test_a_report_holds_what_arrived_against_what_was_told(sent: int, arrivals: list[int], told: list[Told]) -> None:
    tally = Tally(TOTAL)
    tally.sent = sent
    for number in arrivals:
        tally.arrive(number)
    report = tally.report(told)
    real = [number for number in arrivals if 1 <= number <= TOTAL]
    firsts = [number for index, number in enumerate(real) if number not in real[:index]]
    ours = set(range(1, sent + 1))
    assert report.sent == sent
    assert report.arrived == len(set(real))
    assert report.doubled == len(real) - len(set(real))
    assert report.lost == len(ours - set(real))
    assert report.out_of_order == sum(number < max(firsts[: index + 1]) for index, number in enumerate(firsts))
    assert report.damaged == len(arrivals) - len(real) + len(set(real) - ours)
    for what, name in ((Told.SETTLED, "settled"), (Told.UNKNOWN, "unknown"), (Told.NEVER_FORWARDED, "never_forwarded")):
        assert getattr(report, f"told_{name}") == sum(told[number] is what for number in ours)
    assert report.told_nothing == sum(told[number] is Told.NOTHING for number in ours)
    lies = sum(told[number] is Told.SETTLED and number not in real for number in ours)
    assert report.settled_not_arrived == lies
    assert report.arrived_but_unknown == sum(told[number] is Told.UNKNOWN and number in real for number in ours)
    denials = sum(told[number] is Told.NEVER_FORWARDED and number in real for number in ours)
    assert report.misreported == lies + denials
    assert report.is_exact == (
        set(real) == ours and len(arrivals) == len(real) == len(ours) and firsts == sorted(firsts)
    )


def test_the_longest_gap_is_between_two_signs_of_progress() -> None:
    books = Books(1, 5)
    books.begin(10.0)
    for now in (11.0, 15.0, 15.5):
        books.up[0].progress(now)
    books.tell(Direction.UPSTREAM, Witness.SEND, 0, 1, Told.SETTLED)
    ((_, _, report),) = books.reports()
    assert report.longest_gap_seconds == 4.0


def test_each_witness_is_held_against_what_arrived() -> None:
    books = Books(2, 3)
    for client in (0, 1):
        books.up[client].sent = 3
        books.up[client].arrive(1)
        for number in (1, 2):
            books.tell(Direction.UPSTREAM, Witness.SEND, client, number, Told.SETTLED)
        books.tell(Direction.UPSTREAM, Witness.LOG, client, 1, Told.SETTLED)
        books.tell(Direction.UPSTREAM, Witness.LOG, client, 2, Told.UNKNOWN)
    books.tell(Direction.DOWNSTREAM, Witness.SEND, 0, 1, Told.SETTLED)
    reports = {(direction, witness): report for direction, witness, report in books.reports()}
    assert list(reports)[-1] == (Direction.DOWNSTREAM, Witness.SEND)
    believed = reports[Direction.UPSTREAM, Witness.SEND]
    assert (believed.told_settled, believed.settled_not_arrived, believed.lost) == (4, 2, 4)
    told = reports[Direction.UPSTREAM, Witness.LOG]
    assert (told.told_settled, told.settled_not_arrived, told.told_unknown, told.told_nothing) == (2, 0, 2, 2)


def test_a_sum_adds_all_but_the_longest_gap() -> None:
    one = DirectionReport(sent=1, lost=2, longest_gap_seconds=3.0)
    other = DirectionReport(sent=10, doubled=4, longest_gap_seconds=2.0)
    assert summed([one, other]) == DirectionReport(sent=11, lost=2, doubled=4, longest_gap_seconds=3.0)
    assert summed([]) == DirectionReport()
