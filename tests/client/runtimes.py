"""Runs a test under both runtimes that the client supports."""

import functools
import inspect
from collections.abc import Awaitable, Callable

import anyio
import pytest

RUNTIMES = ("trio", "asyncio")


def on_both_runtimes(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes a coroutine function a test of its own for trio and for asyncio; fixtures are passed on."""

    def run(runtime: str, **fixtures: object) -> None:
        anyio.run(functools.partial(test, **fixtures), backend=runtime)

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would look through it and not pass `runtime`
    runtime = inspect.Parameter("runtime", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=[runtime, *signature.parameters.values()])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("runtime", RUNTIMES)(run)
