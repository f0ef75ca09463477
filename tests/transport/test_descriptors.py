"""Descriptors: what connections may have, and what is kept back from them."""

import errno
import os
import resource

import pytest
import structlog

from gateway.transport.descriptors import KEPT_BACK, SPARE, Budget, current_budget, is_shortage, use_all


@pytest.mark.parametrize(
    ("limit", "kept_back"), [(1_048_576, KEPT_BACK), (1024, KEPT_BACK), (256, 32), (64, 8), (8, 1), (4, 0)]
)
def test_some_are_kept_back_and_of_few_only_a_part(limit: int, kept_back: int) -> None:
    budget = Budget(limit=limit)
    assert budget.kept_back == kept_back
    assert budget.has_room_for(limit - kept_back - 1)
    assert not budget.has_room_for(limit - kept_back)


@pytest.mark.parametrize(("limit", "spare"), [(1_048_576, SPARE), (1152, SPARE), (512, 28), (120, 6), (8, 0)])
def test_few_are_left_before_none_is(limit: int, spare: int) -> None:
    budget = Budget(limit=limit)
    assert budget.spare == spare
    assert budget.is_short(budget.for_connections - spare)
    assert not budget.is_short(budget.for_connections - spare - 1)


def test_the_budget_is_the_processs_own_at_this_moment() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        assert current_budget() == Budget(limit=soft - 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert current_budget() == Budget(limit=soft)


def test_all_that_there_are_are_used_and_the_log_says_how_many() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        with structlog.testing.capture_logs() as logs:
            budget = use_all()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert budget == Budget(limit=hard)
    assert logs == [
        {
            "event": "descriptors",
            "log_level": "info",
            "limit": hard,
            "soft_limit_was": 200,
            "kept_back": budget.kept_back,
            "relayed_connections": budget.for_connections // 2,
        }
    ]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ENOMEM, True), (errno.ECONNREFUSED, False)],
)
def test_a_shortage_of_ours_is_no_fault_of_a_peers(number: int, expected: bool) -> None:
    assert is_shortage(OSError(number, os.strerror(number))) is expected
