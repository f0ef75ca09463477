"""Runs the demonstration: its backends, and the gateway in front of them with the page at its root."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import trio

from gateway.backend import Address
from gateway.config import Config, TcpAddress, UnixAddress
from gateway.demo.backends import run_backends
from gateway.server import Server

PAGE: Final = Path(__file__).parent / "page"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy: nothing inline, nothing from elsewhere, in nobody's frame."""

GRACE: Final = "30s"
"""Long enough to cut a connection and write on, short enough to see in the chat that somebody is gone."""

DEFAULT_BIND: Final = "127.0.0.1:8080"


def demo_config(addresses: Mapping[str, Address], *, bind: str = DEFAULT_BIND) -> Config:
    """The gateway's configuration: the page at `/`, each backend at its name. Raises ValueError for a wrong `bind`."""
    routes = [
        {
            "name": name,
            "match": {"path": f"/{name}"},
            "backend": {
                "endpoints": [f"tcp://{address[0]}:{address[1]}"],
                "framing": "lines" if name == "echo" else "records",
            },
            "delivery": {"grace": GRACE},
        }
        for name, address in addresses.items()
    ]
    page = {"name": "page", "files": str(PAGE), "csp": POLICY}
    return Config.model_validate({"listeners": [{"bind": bind}], "routes": [page, *routes], "admin": None})


async def run_demo(*, bind: str = DEFAULT_BIND, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; `announce` is called with the page's URL once it can be opened.

    Raises StartupError for a port that is in use, ValueError for a wrong `bind`.
    """
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(run_backends)
        async with trio.open_nursery() as gateway:
            server = await gateway.start(Server(demo_config(addresses, bind=bind)).serve)
            announce(page_url(server))
        nursery.cancel_scope.cancel()


def page_url(server: Server) -> str:
    """The page's URL for a browser on this machine."""
    address = server.addresses[0]
    if isinstance(address, UnixAddress):
        return f"http+unix://{address.path}"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"http://{TcpAddress(host=host, port=address.port)}"
