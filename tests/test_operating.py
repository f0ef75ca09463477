"""What an operator has done to a running gateway: routes that are emptied and opened, the level of the log."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from gateway.config.model import LogLevel
from gateway.operating import PATIENCE_SECONDS, SPACING_SECONDS, GatewayOperations
from gateway.sessions.registry import SessionKeeper


@dataclass
class Participants:
    route: str


@dataclass
class Leaving:
    """A session that notes when it is sent away, and how long it has; its relay is itself."""

    route: str
    drained: list[tuple[float, float]] = field(default_factory=list)

    @property
    def participants(self) -> Participants:
        return Participants(self.route)

    @property
    def relay(self) -> "Leaving":
        return self

    def drain(self, now: float, *, until: float) -> None:
        self.drained.append((now, until))


@dataclass
class Keeper:
    """Its pump is itself; tasks are kept to be run by the test."""

    registry: list[Leaving]
    tasks: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    @property
    def pump(self) -> "Keeper":
        return self

    def clock(self) -> float:
        return trio.current_time()

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        self.tasks.append(task)


@dataclass
class Scene:
    keeper: Keeper
    operations: GatewayOperations
    configured: list[LogLevel]
    levels: list[LogLevel]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    levels: list[LogLevel] = []
    monkeypatch.setattr("gateway.telemetry.logs.set_level", levels.append)
    configured: list[LogLevel] = ["info"]
    keeper = Keeper([Leaving("chat"), Leaving("vnc"), Leaving("chat")])
    operations = GatewayOperations(
        cast("SessionKeeper", keeper), routes=lambda: ("chat", "vnc"), configured_level=lambda: configured[0]
    )
    return Scene(keeper, operations, configured, levels)


async def test_a_route_that_is_drained_sends_its_clients_away_one_after_the_other(
    scene: Scene, autojump_clock: MockClock
) -> None:
    assert scene.operations.drain_route("chat") == 2
    assert scene.operations.drained == {"chat"}
    (task,) = scene.keeper.tasks
    await task()
    chat = sorted(entry for session in scene.keeper.registry if session.route == "chat" for entry in session.drained)
    assert [round(now / SPACING_SECONDS) for now, _ in chat] == [0, 1], "spread, as they come back"
    assert all(until - now == pytest.approx(PATIENCE_SECONDS) for now, until in chat)
    assert scene.keeper.registry[1].drained == []


def test_a_route_that_is_not_there_is_told_and_none_is_opened_twice(scene: Scene) -> None:
    assert scene.operations.drain_route("unknown") is None
    assert scene.keeper.tasks == []
    assert not scene.operations.open_route("chat")
    scene.operations.drain_route("chat")
    assert scene.operations.open_route("chat")
    assert scene.operations.drained == set()
    assert not scene.operations.open_route("chat")


def test_a_level_that_was_set_holds_until_the_configuration_says_another(scene: Scene) -> None:
    levels = [scene.operations.log_level]
    scene.operations.set_log_level("debug")
    levels.append(scene.operations.log_level)
    scene.configured[0] = "warning"
    levels.append(scene.operations.log_level)
    scene.operations.set_log_level("error")
    levels.append(scene.operations.log_level)
    assert levels == ["info", "debug", "warning", "error"]
    assert scene.levels == ["debug", "error"]
