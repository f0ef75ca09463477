"""What the backends of all framings share: room, pauses, and a far host that is watched."""

from collections.abc import Iterator

import pytest

from gateway.protocol.framings import StreamFraming
from gateway.relay import endpoint as endpoint_module
from gateway.relay.evidence import Evidence
from gateway.relay.framed_backend import FramedBackend
from gateway.relay.settings import RelaySettings
from gateway.relay.timers import NEVER
from gateway.relay.vitals import Vitals
from gateway.telemetry.metrics import PauseCause
from tests.relay.junction import Stage, message

UNHEARD_SECONDS = 30.0


class Tried:
    """A side at its stage, and what looks at its socket find."""

    def __init__(self, *, track: bool = True, unheard_seconds: float | None = UNHEARD_SECONDS) -> None:
        self.stage = Stage(RelaySettings(unheard_seconds=unheard_seconds), overhead_bytes=0, track=track)
        self.side = FramedBackend(self.stage.sock, self.stage.place, StreamFraming(), Evidence(self.stage.sock))
        self.side.start(self.stage.now)
        self.looks = 0
        self.silent = False
        self._heard_at = self.stage.now

    def look(self, *_args: object, **_options: object) -> Vitals:
        self.looks += 1
        if not self.silent:
            return Vitals()
        since = self.stage.now - self._heard_at
        return Vitals(outstanding=1, is_unanswered=True, since_ack_seconds=since)

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
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tried]:
    tried = Tried()
    monkeypatch.setattr(FramedBackend, "vitals", tried.look, raising=True)
    monkeypatch.setattr(endpoint_module.Endpoint, "vitals", tried.look, raising=True)
    yield tried
    tried.side.close()
    tried.stage.close()


def test_one_that_was_sent_nothing_is_not_looked_at(tried: Tried) -> None:
    assert tried.side.next_deadline(tried.stage.now) == NEVER
    tried.pass_time(3600.0)
    assert tried.looks == 0


def test_one_that_has_everything_is_looked_at_once_until_more_is_sent(tried: Tried) -> None:
    tried.side.send([message(b"x")], tried.stage.now)
    tried.pass_time(3600.0)
    assert tried.looks == 1
    tried.side.send([message(b"x")], tried.stage.now)
    tried.pass_time(3600.0)
    assert tried.looks == 2
    assert tried.stage.junction.told == []


def test_one_whose_host_answers_nothing_is_told_as_unheard(tried: Tried) -> None:
    tried.side.send([message(b"x")], tried.stage.now)
    tried.silent = True
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
