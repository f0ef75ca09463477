"""What stands for a side that is away: nothing is lost by it, and it has no socket to ask."""

from collections.abc import Iterator

import pytest

from gateway.memory.account import Charge
from gateway.protocol.records import RejectBody
from gateway.protocol.sequencing import DataReceiver, DataSender
from gateway.relay.away import AbsentBackend, ParkedClient
from gateway.relay.ports import UNKNOWN
from gateway.relay.records_client import Numbering
from gateway.relay.timers import NEVER
from tests.relay.junction import Stage, message

NOW = 1000.0


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.sock.close()
    stage.close()


@pytest.fixture
def parked(stage: Stage) -> ParkedClient:
    numbering = Numbering(receiver=DataReceiver(), sender=DataSender(), told_later=Charge(stage.tab))
    return ParkedClient(stage.outgoing, numbering)


def test_what_is_delivered_to_a_parked_client_is_entered_and_retained(stage: Stage, parked: ParkedClient) -> None:
    parked.deliver([message(b"for later")], NOW, fence=True)
    assert stage.outgoing.retained is not None
    assert stage.outgoing.retained.pieces == [message(b"for later")]
    assert stage.outgoing.ledger is not None
    assert (stage.outgoing.ledger.accepted, stage.outgoing.ledger.settled) == (1, 0)
    assert not parked.is_full


def test_a_parked_client_gives_no_evidence_and_has_no_deadline(parked: ParkedClient) -> None:
    assert not parked.fence(NOW)
    assert parked.written == UNKNOWN
    assert parked.next_deadline(NOW) == NEVER
    assert not parked.vitals().outstanding


def test_a_parked_client_learns_of_a_rejection_when_it_is_back(parked: ParkedClient) -> None:
    parked.upstream_rejected(3, RejectBody(code=4000, reason="no"), NOW)
    assert list(parked.numbering.rejects) == [3]


def test_a_close_ends_a_parked_client(parked: ParkedClient) -> None:
    assert (parked.is_gone, parked.is_closing) == (False, False)
    parked.send_close(1000, "", None, NOW)
    assert (parked.is_gone, parked.is_closing, parked.close_sent) == (True, True, True)


def test_nothing_is_sent_to_an_absent_backend_because_it_is_full() -> None:
    absent = AbsentBackend()
    assert absent.is_full
    assert absent.sample(frozenset()) is None
    with pytest.raises(RuntimeError, match="absent"):
        absent.send([message(b"x")], NOW)


def test_an_absent_backend_is_told_of_the_end_when_it_is_back_or_never() -> None:
    absent = AbsentBackend()
    absent.finish(1000, "", None, NOW)
    assert not absent.is_finished
    assert not absent.is_gone
    assert absent.leave()
    assert absent.is_gone
