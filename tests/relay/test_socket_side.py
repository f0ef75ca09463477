"""What the backends of all framings share: room, pauses, and a far host that is watched."""

from collections.abc import Iterator

import pytest

from gateway.protocol.build import DATA_PATH
from gateway.protocol.framings import StreamFraming
from gateway.relay.endpoint import Endpoint
from gateway.relay.evidence import Evidence
from gateway.relay.framed_backend import FramedBackend
from gateway.relay.settings import RelaySettings
from gateway.relay.timers import NEVER
from gateway.relay.vitals import Vitals
from gateway.telemetry.metrics import PauseCause
from tests.relay.junction import Stage, message

UNHEARD_SECONDS = 30.0


def unanswered(seconds: float) -> Vitals:
    """What a look finds of a host that has answered nothing for so long."""
    return Vitals(outstanding=1, is_unanswered=True, since_ack_seconds=seconds)


class Tried:
    """A side at its stage."""

    def __init__(self) -> None:
        self.stage = Stage(RelaySettings(unheard_seconds=UNHEARD_SECONDS), overhead_bytes=0)
        self.side = FramedBackend(self.stage.sock, self.stage.place, StreamFraming(), Evidence(self.stage.sock))
        self.side.start(self.stage.now)

    def pass_time(self, seconds: float) -> None:
        """Lets it be ticked whenever it wants to be."""
        end = self.stage.now + seconds
        while (deadline := self.side.next_deadline(self.stage.now)) <= end:
            self.stage.now = max(self.stage.now, deadline)
            self.side.tick(self.stage.now)
            if self.side.is_gone or self.stage.junction.told:
                break
        self.stage.now = end


@pytest.fixture
def tried() -> Iterator[Tried]:
    tried = Tried()
    yield tried
    tried.side.close()
    tried.stage.close()


def test_one_that_was_sent_nothing_is_not_looked_at(tried: Tried) -> None:
    assert tried.side.next_deadline(tried.stage.now) == NEVER


def test_one_that_has_everything_is_not_looked_at_again_until_more_is_sent(tried: Tried) -> None:
    for text in (b"first", b"second"):
        tried.side.send([message(text)], tried.stage.now)
        assert tried.side.next_deadline(tried.stage.now) < NEVER
        tried.stage.until(lambda: not tried.side.vitals().outstanding)
        tried.pass_time(UNHEARD_SECONDS)
        assert tried.side.next_deadline(tried.stage.now) == NEVER
    assert tried.stage.junction.told == []


if (
    DATA_PATH == "interpreted"
):  # nothing can be put in place of what compiled code calls; test_far_host sees it for real

    def test_one_whose_host_answers_nothing_is_told_as_unheard(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
        begin = tried.stage.now
        tried.side.send([message(b"x")], begin)
        monkeypatch.setattr(Endpoint, "vitals", lambda _: unanswered(tried.stage.now - begin))
        tried.pass_time(UNHEARD_SECONDS - 1.0)
        assert tried.stage.junction.told == []
        tried.pass_time(2.0)
        assert tried.stage.junction.told == [("ended", "BackendUnheard")]


def test_a_full_buffer_is_told_and_room_behind_it(tried: Tried) -> None:
    stage = tried.stage
    stage.peer.reads = False
    while not tried.side.is_full:
        tried.side.send([message(bytes(100_000))], stage.now)
    assert tried.side.pause_cause in (PauseCause.BUFFER, PauseCause.RECEIVER)
    assert tried.side.buffered > 0
    stage.peer.reads = True
    stage.until(lambda: ("room",) in stage.junction.told)
    assert not tried.side.is_full
