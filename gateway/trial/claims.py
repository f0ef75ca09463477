"""What Kakitome's log says of plain clients' messages, held against what became of them.

Invariant: the log names connections, the trial knows what went over each: a claim is about the messages of its own
connection, and a connection without a claim (its gateway was killed) is one of which nothing was told.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from gateway.trial.faults import Direction
from gateway.trial.tally import Books, DirectionReport, Told, Witness, summed


class Participant(Protocol):
    """A plain client, as far as its connections are concerned."""

    numbers: list[list[int]]
    """For each connection: the numbers of the messages sent on it, in order."""
    received: list[int]
    """For each connection: how many WebSocket messages came."""


def signature(client: int, connection: int) -> str:
    """What a plain client adds to the trial's path, to be found in the log's `path` again."""
    return f"{client}/{connection}"


def enter_upstream(events: Iterable[Mapping[str, Any]], participants: Sequence[Participant], books: Books) -> None:
    """Enters what the `session_ended` events tell of what the clients sent."""
    for event in events:
        client, connection = _who(event)
        numbers = participants[client].numbers[connection]
        for told, (first, last) in _spans(event["upstream"]).items():
            for number in numbers[first - 1 : last]:
                books.tell(Direction.UPSTREAM, Witness.LOG, client, number, told)


def downstream_report(events: Iterable[Mapping[str, Any]], participants: Sequence[Participant]) -> DirectionReport:
    """What the `session_ended` events tell of what the clients were sent.

    In WebSocket messages: a stream has no others. On one connection they arrive in order, so that the first ones did.
    """
    reports = []
    for event in events:
        client, connection = _who(event)
        arrived = participants[client].received[connection]
        claims = event["downstream"]
        # Of what was sent on and of what was dropped: the log's `messages` are the first kind only.
        taken = max(claims["messages"], *(last for _, last in _spans(claims).values()))
        told = {what: last - first + 1 for what, (first, last) in _spans(claims).items()}
        had = {what: max(0, min(last, arrived) - first + 1) for what, (first, last) in _spans(claims).items()}
        reports.append(
            DirectionReport(
                sent=taken,
                arrived=arrived,
                lost=max(0, taken - arrived),
                damaged=max(0, arrived - claims["messages"]),  # more came than the gateway knows of
                told_settled=told[Told.SETTLED],
                settled_not_arrived=told[Told.SETTLED] - had[Told.SETTLED],
                told_unknown=told[Told.UNKNOWN],
                arrived_but_unknown=had[Told.UNKNOWN],
                told_never_forwarded=told[Told.NEVER_FORWARDED],
                arrived_but_never_forwarded=had[Told.NEVER_FORWARDED],
                told_nothing=taken - sum(told.values()),
            )
        )
    return summed(reports)


def _who(event: Mapping[str, Any]) -> tuple[int, int]:
    """(client, connection) of the signature at the path's end."""
    _, client, connection = event["path"].rsplit("/", 2)
    return int(client), int(connection)


def _spans(claims: Mapping[str, Any]) -> dict[Told, tuple[int, int]]:
    """First and last position of what was told of one direction; (1, 0) where it was told of none."""
    return {
        Told.SETTLED: (1, claims["settled"]),
        Told.UNKNOWN: claims["unknown"] or (1, 0),
        Told.NEVER_FORWARDED: claims["never_forwarded"] or (1, 0),
    }
