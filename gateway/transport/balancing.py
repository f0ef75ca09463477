"""Which of a backend's addresses to dial, in which order: a sans-I/O core; `now` is an argument.

Invariant: every address stands in every order exactly once. What is known to be down comes last and is never left
out, because a guess that it is still down must not refuse a client that it would have served.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, assert_never

from gateway.config import Endpoint
from gateway.config.model import BalanceName
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.resolving import Target

SUSPENSIONS_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""So long the first, second... failed dial in a row puts an address last, and so long after it a check asks for it
again: a restart is noticed soon, and nobody pays for a dead address's timeout again and again."""

_NEVER: Final = float("-inf")


class EndpointState:
    """One address of an endpoint as it is known at this moment: its load and its health."""

    __slots__ = (
        "_check_failed",
        "_retry_at",
        "active",
        "dials",
        "endpoint",
        "failing_since",
        "failures",
        "name",
        "on_suspended",
        "target",
        "up",
    )

    def __init__(
        self, endpoint: Endpoint, target: Target | None = None, *, dials: dict[DialOutcome, int] | None = None
    ) -> None:
        """`target`: which address of the endpoint's. `dials`: the endpoint's counters, all its addresses together."""
        self.endpoint: Final = endpoint
        self.target: Final = target
        self.name: Final = str(endpoint)
        """As configured, the `endpoint` label of metrics."""
        self.active = 0
        """Connections open or being dialled."""
        self.up: bool | None = None
        """It answers, by the last that was heard of it, a dial or a check; None: nothing was."""
        self.failures = 0
        """Dials and checks that failed since it last answered."""
        self.failing_since: float | None = None
        """When the first of them failed; None while it answers."""
        self.dials: Final = dict.fromkeys(DialOutcome, 0) if dials is None else dials
        self.on_suspended: Callable[[], None] | None = None
        """Somebody checks it: called when a dial has suspended it, which then lasts until it has answered."""
        self._check_failed = False
        self._retry_at = _NEVER

    @property
    def place(self) -> str:
        """The endpoint, and which address of its name this is."""
        host = getattr(self.endpoint.address, "host", None)
        if self.target is None or host in (None, getattr(self.target.address, "host", None)):
            return self.name
        return f"{self.name} ({self.target.address})"

    @property
    def labels(self) -> dict[str, str]:
        """The same for the log."""
        if self.target is None or self.place == self.name:
            return {"endpoint": self.name}
        return {"endpoint": self.name, "address": str(self.target.address)}

    @property
    def is_suspended(self) -> bool:
        """A dial or a check has failed, and nothing has succeeded since."""
        return self._retry_at != _NEVER

    @property
    def retry_at(self) -> float:
        """When to try it again, of one that is suspended."""
        return self._retry_at

    def is_available(self, now: float) -> bool:
        """Nothing speaks against dialling it: it is not known to be down, and no dial failed a moment ago."""
        if self._check_failed:
            return False
        return not self.is_suspended if self.on_suspended is not None else now >= self._retry_at

    def record_dial(self, outcome: DialOutcome, *, now: float) -> bool:
        """Counts a dial: one that failed suspends the address, one that connected ends its suspension.

        True when it is news that it is down, which is worth a line in the log.
        """
        self.dials[outcome] += 1
        match outcome:
            case DialOutcome.CONNECTED:
                self._answered()
            case DialOutcome.REJECTED:
                self._answered()  # with CLOSE, to this very session: it is alive, others may be welcome
            case DialOutcome.OUTPACED:
                self._suspend(now)  # slow or dead: that remains to be seen
            case DialOutcome.REFUSED | DialOutcome.TIMED_OUT | DialOutcome.TLS_FAILED | DialOutcome.FAILED:
                is_news = self.up is not False
                self._failed(now)
                self._suspend(now)
                return is_news
            case _:
                assert_never(outcome)
        return False

    def record_check(self, *, passed: bool, now: float) -> bool:
        """Takes a check's verdict; True when it is another than what was known."""
        before = self.up
        if passed:
            self._answered()
        else:
            self._failed(now)
            self._check_failed = True
            self.failures += 1
            self._retry_at = now + self._suspension_seconds(self.failures - 1)
        return self.up is not (True if before is None else before)

    def put_off(self, *, now: float) -> None:
        """A check could not be made, for a reason that is not the address's: the next one comes later."""
        if self.is_suspended:
            self._retry_at = now + self._suspension_seconds(self.failures)

    def forget_checks(self) -> None:
        """Nobody checks it any more, so what a check said would stand for ever."""
        self.on_suspended = None
        if self._check_failed:
            self._check_failed = False
            self.up = self.failing_since = None

    def _suspend(self, now: float) -> None:
        # Clients that dialled at the same time fail together: that is one failure, not a hundred. Where it is checked,
        # the next check decides, however many are dialled for want of anything better until then.
        if now < self._retry_at or (self.is_suspended and self.on_suspended is not None):
            return
        self._retry_at = now + self._suspension_seconds(self.failures)
        self.failures += 1
        if self.on_suspended is not None:
            self.on_suspended()

    def _failed(self, now: float) -> None:
        self.up = False
        self.failing_since = now if self.failing_since is None else self.failing_since

    def _answered(self) -> None:
        self.up = True
        self.failing_since = None
        self.failures = 0
        self._check_failed = False
        self._retry_at = _NEVER

    @staticmethod
    def _suspension_seconds(failures: int) -> float:
        return SUSPENSIONS_SECONDS[min(failures, len(SUSPENSIONS_SECONDS) - 1)]


class Balancer:
    """Orders a backend's addresses for each dial."""

    __slots__ = ("_policy", "_turn")

    def __init__(self, policy: BalanceName) -> None:
        self._policy: Final = policy
        self._turn = -1

    def order(self, endpoints: Sequence[EndpointState], key: bytes, *, now: float) -> list[EndpointState]:
        """All of them, the one to dial first, the available ones before all others.

        `key` matters to `session_hash` only: equal keys get equal orders while the addresses and their health last,
        whatever the order of `endpoints`, at every gateway.
        """
        self._turn += 1
        available = [state for state in endpoints if state.is_available(now)]
        unavailable = [state for state in endpoints if not state.is_available(now)]
        if self._policy == "session_hash":
            names = [state.name for state in endpoints]
            identities = {state: _identity(state, alone=names.count(state.name) == 1) for state in endpoints}

            # Rendezvous hashing: an address that goes moves only its own keys, evenly over the others.
            def score(state: EndpointState) -> bytes:
                return hashlib.blake2b(identities[state] + b"\0" + key, digest_size=8).digest()

            return sorted(available, key=score) + sorted(unavailable, key=score)
        return self._arrange(available) + self._arrange(unavailable)

    def _arrange(self, endpoints: list[EndpointState]) -> list[EndpointState]:
        start = self._turn % len(endpoints) if endpoints else 0
        rotated = endpoints[start:] + endpoints[:start]
        if self._policy == "least_connections":
            # Rotated first, so that equals take turns: an idle backend's first address is not always the one.
            return sorted(rotated, key=lambda state: state.active)
        return rotated


def _identity(state: EndpointState, *, alone: bool) -> bytes:
    """What a key is kept at: the address, of a name that has several; else the name.

    So a name that leads to one host, such as a pod of a StatefulSet, keeps its keys when it comes back elsewhere.
    """
    if alone or state.target is None:
        return state.name.encode()
    return f"{state.name} {state.target.address}".encode()
