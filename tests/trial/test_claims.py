"""What Kakitome's log says of plain clients' messages: each claim is held against its own connection."""

from dataclasses import dataclass, field
from typing import Any

from gateway.trial.claims import downstream_report, enter_upstream, signature
from gateway.trial.faults import Direction
from gateway.trial.tally import Books, DirectionReport, Witness
from gateway.trial.traffic import GREETING

Span = tuple[int, int] | None


@dataclass
class Client:
    numbers: list[list[int]] = field(default_factory=list)
    received: list[int] = field(default_factory=list)


def direction(messages: int, settled: int, unknown: Span = None, never_forwarded: Span = None) -> dict[str, Any]:
    return {"messages": messages, "settled": settled, "unknown": unknown, "never_forwarded": never_forwarded}


def ended(client: int, connection: int, *, up: Any = None, down: Any = None) -> dict[str, Any]:
    nothing = direction(0, 0)
    return {"path": f"/trial/{signature(client, connection)}", "upstream": up or nothing, "downstream": down or nothing}


def test_a_claim_upstream_is_about_the_messages_of_its_connection() -> None:
    clients = [Client(), Client(numbers=[[GREETING, 1, 2, 3], [GREETING, 4, 5, 6, 7]])]
    books = Books(2, 7)
    books.up[1].sent = 7
    for number in (1, 2, 4):
        books.up[1].arrive(number)
    first = ended(1, 0, up=direction(4, 4))
    second = ended(1, 1, up=direction(4, 2, unknown=(3, 3), never_forwarded=(4, 4)))
    enter_upstream([first, second], clients, books)
    ((way, witness, report),) = books.reports()
    assert (way, witness) == (Direction.UPSTREAM, Witness.LOG)
    assert (report.told_settled, report.settled_not_arrived) == (4, 1)  # 3 did not arrive
    assert (report.told_unknown, report.arrived_but_unknown) == (1, 0)
    assert (report.told_never_forwarded, report.told_nothing) == (1, 1)


def test_downstream_the_first_messages_of_a_connection_are_those_that_arrived() -> None:
    clients = [Client(received=[6, 10])]
    events = [
        ended(0, 0, down=direction(10, 5, unknown=(6, 8), never_forwarded=(9, 10))),
        ended(0, 1, down=direction(10, 10)),
    ]
    assert downstream_report(events, clients) == DirectionReport(
        sent=20,
        arrived=16,
        lost=4,
        told_settled=15,
        told_unknown=3,
        arrived_but_unknown=1,
        told_never_forwarded=2,
    )


def test_what_is_claimed_downstream_and_did_not_arrive_is_misreported() -> None:
    report = downstream_report([ended(0, 0, down=direction(4, 3))], [Client(received=[2])])
    assert report.settled_not_arrived == 1
    assert report.misreported == 1
    assert report.told_nothing == 1
    report = downstream_report([ended(0, 0, down=direction(4, 1, never_forwarded=(2, 4)))], [Client(received=[2])])
    assert report.arrived_but_never_forwarded == 1
    assert report.misreported == 1


def test_more_messages_than_the_gateway_knows_of_are_damage() -> None:
    report = downstream_report([ended(0, 0, down=direction(2, 2))], [Client(received=[3])])
    assert report.damaged == 1


def test_what_was_dropped_was_taken_though_the_gateway_counts_what_it_sent_on() -> None:
    report = downstream_report(
        [ended(0, 0, down=direction(4, 3, unknown=(4, 4), never_forwarded=(5, 9)))], [Client(received=[3])]
    )
    assert (report.sent, report.lost, report.told_never_forwarded, report.told_nothing) == (9, 6, 5, 0)


def test_nothing_logged_is_nothing_told() -> None:
    assert downstream_report([], []) == DirectionReport()
