"""`helm test`: asks the gateway whether it is ready, then shakes hands with every route as a client would.

Runs in the gateway's own image: python -c SCRIPT --config FILE [--admin URL] [--url URL] [--timeout SECONDS].
Prints a line for each thing tried; the exit status is 1 when one of them failed.
"""

import argparse
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import trio

from gateway.client import ConnectionFailed, HandshakeFailed, Timeouts, connect
from gateway.config import Route, load_with_files

RETRY_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True, help="the gateway's configuration")
    parser.add_argument("--admin", help="http://HOST:PORT of the admin listener; without it readiness is not asked for")
    parser.add_argument("--url", help="ws://HOST:PORT of a listener; without it routes are not tried")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds that the gateway gets to be ready")
    arguments = parser.parse_args()
    # Secrets and certificates are the gateway's; here they need not be there.
    routes = load_with_files(arguments.config, read_files=False).config.routes
    sys.exit(trio.run(run, arguments.admin, arguments.url, routes, arguments.timeout))


async def run(admin: str | None, url: str | None, routes: tuple[Route, ...], timeout_seconds: float) -> int:
    """The exit status."""
    outcomes = []
    if admin is not None:
        outcomes.append(await check_readiness(f"{admin}/readyz", timeout_seconds))
    if url is not None:
        outcomes += [await check_route(route, url, timeout_seconds) for route in routes if route.backend is not None]
    return 0 if all(outcomes) else 1


async def check_readiness(url: str, timeout_seconds: float) -> bool:
    """Asks until the answer is yes, for a `helm test` may come before the pods are up."""
    # Service names are no business of a proxy that the environment may name.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> None:
        opener.open(url, timeout=timeout_seconds).close()

    problem = "no answer"
    with trio.move_on_after(timeout_seconds):
        while True:
            try:
                await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
                return report(True, "readiness", url)
            except urllib.error.HTTPError as error:
                with error:
                    problem = error.read().decode(errors="replace").strip()
            except OSError as error:
                problem = str(error)
            await trio.sleep(RETRY_SECONDS)
    return report(False, "readiness", f"{url}: {problem}")


async def check_route(route: Route, url: str, timeout_seconds: float) -> bool:
    """A handshake for the route's host and path, from an origin that it lets in."""
    parts = urlsplit(url)
    # The Service's own name is none that the gateway need know of, and localhost is known to every one.
    own = f"localhost:{parts.port}" if parts.port else "localhost"
    host = own if route.match.host is None else route.match.host.replace("*", "helm-test")
    origin = route.origins[0].replace("*", "https://helm-test" if route.origins[0] == "*" else "helm-test")
    if origin == "same-origin":
        origin = f"{'https' if parts.scheme == 'wss' else 'http'}://{host}"
    # The certificate is for the names that clients use, not for the Service's.
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    target = url + route.match.path.removesuffix("*")
    what = f"{target} (host {host}, origin {origin})"
    try:
        async with connect(
            target,
            headers=[("Host", host)],
            origin=origin,
            subprotocols=route.subprotocols,
            ssl_context=tls if parts.scheme == "wss" else None,
            timeouts=Timeouts(connect=timeout_seconds),
        ):
            return report(True, f"route {route.name}", what)
    except (ConnectionFailed, HandshakeFailed) as error:
        return report(False, f"route {route.name}", f"{what}: {error}")


def report(is_well: bool, what: str, detail: str) -> bool:
    """Prints the outcome and gives it back."""
    print(f"{'ok    ' if is_well else 'FAILED'} {what}: {detail}", flush=True)  # noqa: T201
    return is_well


if __name__ == "__main__":
    main()
