"""Requests as the admin app gets them."""

from gateway.protocol.http import Request


def get(target: str, *, method: str = "GET", **headers: str) -> Request:
    """A request; header names are given with underscores."""
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request.parse(method=method, target=target, headers=(("host", "gateway.test"), *fields))
