"""Which of a backend's endpoints to dial, in which order: a sans-I/O core; `now` is an argument.

Invariant: every endpoint stands in every order exactly once. What is known to be down comes last and is never left
out, because a guess that it is still down must not refuse a client that it would have served.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, assert_never

from gateway.config import Endpoint
from gateway.config.model import BalanceName
from gateway.telemetry.metrics import DialOutcome

SUSPENSIONS_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""So long the first, second... failed dial in a row puts an endpoint last: a restart is noticed soon, and clients do
not pay for a dead endpoint's timeout again and again."""


class EndpointState:
    """One endpoint as it is known at this moment: its load, its health, its counters."""

    __slots__ = ("_suspended_until", "active", "check_passed", "dials", "endpoint", "failing_since", "failures", "name")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint: Final = endpoint
        self.name: Final = str(endpoint)
        """As configured, the `endpoint` label of metrics."""
        self.active = 0
        """Connections open or being dialled."""
        self.check_passed: bool | None = None
        """What the last health check said; None: there was none."""
        self.failures = 0
        """Dials failed since the last one that succeeded."""
        self.failing_since: float | None = None
        """When the first of them failed; None while it answers."""
        self.dials: Final = dict.fromkeys(DialOutcome, 0)
        self._suspended_until = float("-inf")

    @property
    def up(self) -> bool:
        """It answers: its last health check passed, or its last dial where there are no checks."""
        return self.failures == 0 if self.check_passed is None else self.check_passed

    def is_available(self, now: float) -> bool:
        """Nothing speaks against dialling it: it is not known to be down, and no dial failed a moment ago."""
        return self.check_passed is not False and now >= self._suspended_until

    def record_dial(self, outcome: DialOutcome, *, now: float) -> bool:
        """Counts a dial: one that failed suspends the endpoint, one that connected ends its suspension.

        True when a suspension begins, which is worth a line in the log; more failures during it are not.
        """
        self.dials[outcome] += 1
        match outcome:
            case DialOutcome.CONNECTED:
                self._forgive()
            case DialOutcome.REJECTED:
                pass  # the backend answered this very session with CLOSE: it is alive, others may be welcome
            case DialOutcome.REFUSED | DialOutcome.TIMED_OUT | DialOutcome.TLS_FAILED | DialOutcome.FAILED:
                self.failing_since = now if self.failing_since is None else self.failing_since
                # Clients that dialled at the same time fail together: that is one failure, not a hundred.
                if now >= self._suspended_until:
                    self._suspended_until = now + SUSPENSIONS_SECONDS[min(self.failures, len(SUSPENSIONS_SECONDS) - 1)]
                    self.failures += 1
                    return True
            case _:
                assert_never(outcome)
        return False

    def record_check(self, *, passed: bool) -> bool:
        """Takes a health check's verdict, which overrules what dials said; True when `up` changed by it."""
        was_up = self.up
        self.check_passed = passed
        if passed:
            self._forgive()
        return self.up is not was_up

    def _forgive(self) -> None:
        self.failures = 0
        self.failing_since = None
        self._suspended_until = float("-inf")


class Balancer:
    """Orders a backend's endpoints for each dial."""

    __slots__ = ("_policy", "_turn", "endpoints")

    def __init__(self, endpoints: Sequence[EndpointState], policy: BalanceName) -> None:
        """`endpoints`: at least one, in the order of the configuration."""
        self.endpoints: Final = tuple(endpoints)
        self._policy: Final = policy
        self._turn = -1

    def order(self, key: bytes, *, now: float) -> list[EndpointState]:
        """All endpoints, the one to dial first, the available ones before all others.

        `key` matters to `session_hash` only: equal keys get equal orders while the endpoints and their health last.
        """
        self._turn += 1
        available = [state for state in self.endpoints if state.is_available(now)]
        unavailable = [state for state in self.endpoints if not state.is_available(now)]
        return self._arrange(available, key) + self._arrange(unavailable, key)

    def _arrange(self, endpoints: list[EndpointState], key: bytes) -> list[EndpointState]:
        match self._policy:
            case "round_robin":
                return self._rotate(endpoints)
            case "least_connections":
                # Rotated first, so that equals take turns: an idle backend's first endpoint is not always the one.
                return sorted(self._rotate(endpoints), key=lambda state: state.active)
            case "session_hash":
                # Rendezvous hashing: an endpoint that goes moves only its own keys, evenly over the others.
                return sorted(endpoints, key=lambda state: _score(state, key))
            case _:
                assert_never(self._policy)

    def _rotate(self, endpoints: list[EndpointState]) -> list[EndpointState]:
        start = self._turn % len(endpoints) if endpoints else 0
        return endpoints[start:] + endpoints[:start]


def _score(state: EndpointState, key: bytes) -> bytes:
    return hashlib.blake2b(state.name.encode() + b"\0" + key, digest_size=8).digest()
