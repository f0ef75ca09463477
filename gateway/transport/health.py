"""Checks the endpoints of a route: those of some without cause, those of all after a failed dial.

Invariant: a backend is never connected to without a client's asking, unless its route's checks were asked for or it
speaks records; or a dial has failed, and then no more often than its back-off says and only until it answers. There are
services that count a connection without a word as an attack, and then refuse everybody behind the gateway.
"""

import math
import random
from typing import Final

import trio

from gateway.config import Health
from gateway.errors import GatewayExhausted
from gateway.telemetry.logs import get_logger
from gateway.transport.balancing import EndpointState
from gateway.transport.connector import Connector

SHORTEST_PACE: Final = 0.8
"""The part of an interval that passes at least: gateways that were started together do not go on knocking together."""

_log = get_logger("health")


async def check(connector: Connector) -> None:
    """Checks all addresses of a route's endpoints, those that appear later too, until cancelled.

    What goes down and what comes back is logged once; the verdicts are with the connector's endpoints.
    """
    health = connector.backend.health
    if health is None:
        return
    watched: dict[EndpointState, trio.CancelScope] = {}
    async with trio.open_nursery() as nursery:
        while True:
            states = connector.endpoints
            for state in watched.keys() - set(states):
                watched.pop(state).cancel()
            for state in states:
                if state not in watched:
                    watched[state] = scope = trio.CancelScope()
                    nursery.start_soon(_watch, connector, state, health, scope)
            await connector.addresses.resolver.news()


async def _watch(connector: Connector, state: EndpointState, health: Health, scope: trio.CancelScope) -> None:
    interval = connector.backend.check_interval
    suspended = trio.Event()

    def wake() -> None:
        suspended.set()

    state.on_suspended = wake
    try:
        with scope:
            regular = math.inf if interval is None else trio.current_time()
            while True:
                due = min(regular, state.retry_at if state.is_suspended else math.inf)
                with trio.move_on_at(due):
                    await suspended.wait()
                    suspended = trio.Event()
                    continue
                if interval is not None:
                    regular = trio.current_time() + interval * random.uniform(SHORTEST_PACE, 1.0)
                await _check_once(connector, state, health.timeout)
    finally:
        if state.on_suspended is wake:  # not a later watch's, after a reload
            state.forget_checks()


async def _check_once(connector: Connector, state: EndpointState, timeout_seconds: float) -> None:
    try:
        problem = await connector.probe(state, timeout_seconds=timeout_seconds)
    except GatewayExhausted:
        state.put_off(now=trio.current_time())
        return
    _log.debug("checked", route=connector.route, **state.labels, problem=problem)
    if state.record_check(passed=problem is None, now=trio.current_time()):
        if problem is None:
            _log.info("backend_up", route=connector.route, **state.labels)
        else:
            _log.warning("backend_down", route=connector.route, **state.labels, problem=problem)
