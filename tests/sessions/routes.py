"""Routes for tests of sessions."""

from typing import Any


def records_route(
    port: int, *, limits: dict[str, Any] | None = None, timeouts: dict[str, Any] | None = None, **delivery: Any
) -> dict[str, Any]:
    """A route to a records backend on `port`."""
    backend = {"endpoints": [f"tcp://127.0.0.1:{port}"], "framing": "records", "health": None}
    return {"backend": backend, "delivery": delivery, "limits": limits or {}, "timeouts": timeouts or {}}


def stream_route(port: int, *, framing: str = "stream", **delivery: Any) -> dict[str, Any]:
    """A route to a backend on `port` that knows nothing of records."""
    backend = {"endpoints": [f"tcp://127.0.0.1:{port}"], "framing": framing, "health": None}
    return {"backend": backend, "delivery": delivery}
