"""Sessions by token and by ID, and who makes way of those whose clients are away, without a socket."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from gateway.memory.account import Account, Tab
from gateway.sessions.host import EndedSession
from gateway.sessions.identity import Binding
from gateway.sessions.registry import SessionRegistry
from gateway.sessions.session import Session

MINE = Binding(route="chat", origin="https://app.example.com")
THEIRS = Binding(route="chat", origin="https://mallory.example")


@dataclass(kw_only=True)
class Participants:
    route: str


@dataclass(kw_only=True)
class FakeSession:
    """What the registry looks at; its relay is itself, and evicting it ends it at once."""

    id: str
    token: str | None
    tab: Tab
    participants: Participants
    held_bytes: int = 0
    state: str = "open"
    evicted_at: float | None = None

    @property
    def relay(self) -> "FakeSession":
        return self

    def evict(self, now: float) -> None:
        assert self.evicted_at is None
        self.evicted_at = now

    def describe(self) -> Mapping[str, object]:
        return {"id": self.id}


@dataclass(kw_only=True)
class House:
    """A registry and its sessions by name."""

    registry: SessionRegistry
    sessions: dict[str, FakeSession] = field(default_factory=dict)
    account: Account = field(default_factory=lambda: Account(limit_bytes=1 << 20, holder_bytes=1 << 20))

    def begin(self, name: str, *, holder: str = "192.0.2.1", route: str = "chat", held: int = 0) -> FakeSession:
        session = FakeSession(
            id=name,
            token=f"token-{name}",
            tab=self.account.open(holder),
            participants=Participants(route=route),
            held_bytes=held,
        )
        self.sessions[name] = session
        self.registry.add(cast("Session", session))
        return session

    def park(self, *names: str, holder: str = "192.0.2.1", route: str = "chat", held: int = 0) -> None:
        for name in names:
            self.begin(name, holder=holder, route=route, held=held)
            self.registry.park(name, now=1.0)

    @property
    def evicted(self) -> list[str]:
        return [name for name, session in self.sessions.items() if session.evicted_at is not None]


def house(*, parked: int = 100, quota: int | None = None, parked_bytes: int | None = None, ended: int = 2) -> House:
    registry = SessionRegistry(
        parked_sessions=parked, parked_per_holder=quota, parked_bytes=parked_bytes, ended_sessions=ended
    )
    return House(registry=registry)


def over(name: str, binding: Binding = MINE) -> EndedSession:
    return EndedSession(token=f"token-{name}", binding=binding, report=None, summary={"id": name})


def test_a_session_is_found_by_its_token_while_it_lives_and_its_end_by_whom_it_was_given_to() -> None:
    its = house()
    session = its.begin("a")
    assert its.registry.by_token("token-a") is cast("Session", session)
    assert its.registry.ended_by_token("token-a", MINE) is None
    ended = over("a")
    its.registry.end("a", ended)
    assert its.registry.by_token("token-a") is None
    assert its.registry.ended_by_token("token-a", MINE) is ended
    assert its.registry.ended_by_token("token-a", THEIRS) is None


def test_one_that_goes_on_elsewhere_is_shown_and_not_found_by_its_token() -> None:
    its = house()
    its.begin("a")
    its.registry.end("a", over("a"), is_elsewhere=True)
    assert its.registry.ended_by_token("token-a", MINE) is None
    assert its.registry.ended(limit=9) == [{"id": "a"}]


def test_only_the_last_ends_are_remembered() -> None:
    its = house(ended=2)
    for name in "abc":
        its.begin(name)
        its.registry.end(name, over(name))
    assert its.registry.ended(limit=9) == [{"id": "c"}, {"id": "b"}]
    assert its.registry.ended_by_token("token-a", MINE) is None
    assert its.registry.ended_by_token("token-b", MINE) is not None


def test_where_no_end_is_remembered_none_is() -> None:
    its = house(ended=0)
    its.begin("a")
    its.registry.end("a", over("a"))
    assert its.registry.ended(limit=9) == []
    assert its.registry.ended_by_token("token-a", MINE) is None


def test_it_is_told_when_the_last_session_has_ended() -> None:
    its, told = house(), []
    its.registry.on_empty = lambda: told.append(len(its.registry))
    its.begin("a")
    its.begin("b")
    its.registry.end("a", over("a"))
    assert told == []
    its.registry.end("b", over("b"))
    assert told == [0]


def test_beyond_the_limit_the_holder_that_has_most_makes_way_with_its_oldest() -> None:
    its = house(parked=4)
    its.park("few", holder="192.0.2.2")
    its.park("1", "2", "3", "4")
    assert its.evicted == ["1"]
    its.park("5", holder="192.0.2.3")
    assert its.evicted == ["1", "2"]


def test_a_holder_that_is_beyond_its_quota_pushes_out_its_own() -> None:
    its = house(quota=2)
    its.park("older", "and-older", "x", holder="192.0.2.2")
    assert its.evicted == ["older"]
    its.park("1", "2", "3")
    assert its.evicted == ["older", "1"]


def test_who_is_back_makes_way_for_nobody() -> None:
    its = house(parked=2)
    its.park("1", "2")
    its.registry.unpark("1")
    its.park("3")
    assert its.evicted == []
    its.registry.unpark("1")
    its.registry.park("1", now=2.0)
    assert its.evicted == ["2"], "it waits anew"


def test_room_on_a_route_is_made_by_those_who_wait_on_it() -> None:
    its = house()
    its.park("chat-1", "chat-2", "chat-3")
    its.park("vnc-1", route="vnc")
    its.registry.make_room("vnc", now=5.0)
    assert its.evicted == ["vnc-1"]
    its.registry.make_room("vnc", now=5.0)
    its.registry.make_room("unknown", now=5.0)
    assert its.evicted == ["vnc-1"]
    assert its.sessions["vnc-1"].evicted_at == 5.0


def test_so_many_make_way_and_no_more_than_there_are() -> None:
    its = house()
    its.park("1", "2", "3")
    assert its.registry.make_way(2, now=1.0) == 2
    assert its.evicted == ["1", "2"]
    assert its.registry.make_way(5, now=1.0) == 1
    assert its.registry.make_way(5, now=1.0) == 0


def test_what_the_parked_hold_together_is_bounded() -> None:
    its = house(parked_bytes=250)
    its.park("1", "2", "3", held=100)
    its.registry.enforce_memory(now=1.0)
    assert its.evicted == ["1"]
    its.registry.enforce_memory(now=1.0)
    assert its.evicted == ["1"]


def test_without_a_bound_nobody_is_ended_for_memory() -> None:
    its = house(parked_bytes=None)
    its.park("1", held=1 << 40)
    its.registry.enforce_memory(now=1.0)
    assert its.evicted == []


def test_for_memory_the_fattest_go_first_until_it_is_enough() -> None:
    its = house()
    for name, held in [("a", 10), ("b", 300), ("c", 200), ("d", 20)]:
        its.park(name, held=held)
    its.begin("attached", held=10_000)
    assert its.registry.free(301, now=1.0) == 2
    assert its.evicted == ["b", "c"]
    assert its.registry.free(0, now=1.0) == 0
    assert its.registry.free(10_000, now=1.0) == 2, "only those whose clients are away"


def test_what_an_operator_sees_is_in_order_and_in_pages() -> None:
    its = house()
    for name in ("d", "a", "c", "b"):
        its.begin(name, route="vnc" if name == "c" else "chat")
    its.sessions["b"].state = "parked"

    def shown(**chosen: str | None) -> list[object]:
        everything: dict[str, str | None] = {"route": None, "state": None, "after": None}
        return [line["id"] for line in its.registry.live(**(everything | chosen), limit=2)]

    assert shown() == ["a", "b"]
    assert shown(after="b") == ["c", "d"]
    assert shown(route="chat", after="a") == ["b", "d"]
    assert shown(state="parked") == ["b"]
    assert its.registry.describe("c") == {"id": "c"}
    assert its.registry.describe("z") is None


def test_sessions_may_end_while_they_are_gone_through() -> None:
    its = house()
    for name in "abc":
        its.begin(name)
    for session in its.registry:
        its.registry.end(session.id, over(session.id))
    assert len(its.registry) == 0
