"""The `kakitome` command, all of it and so long: what each subcommand does for the terminal, work done elsewhere.

Invariant: what the operator can mend ends in one line on standard error that says how, never in a traceback. What a
subcommand needs is imported when it runs, so that `--help` answers at once.
"""

import gc
import json
import os
import platform
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import click

from gateway import __version__
from gateway.command import ExitStatus, fail, need_linux, run_until_done
from gateway.errors import ConfigError, ConfigUnreadable, KakitomeError

if TYPE_CHECKING:
    from gateway.config import Config, Loaded, Route


YOUNG_OBJECTS: Final = 10_000
"""So many more objects than before are alive when the garbage collector looks at the young ones: some 2 MB."""

_EPILOG = """\b
Exit status:
  0    done; serve: ended by SIGTERM or SIGINT, all connections closed in order
  1    it could not be done: a port in use, a file missing or not to be read, a server that refuses
  2    the configuration or the command line has faults
  130  interrupted before it was done; connect: 143 and 129 when ended by SIGTERM and SIGHUP
"""

_config_option = click.option(
    "-c",
    "--config",
    "path",
    envvar="KAKITOME_CONFIG",
    show_envvar=True,
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The configuration, in YAML.",
)


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    import trio

    from gateway.protocol.build import CODEC, DATA_PATH, HINT, SLOW

    click.echo(
        f"kakitome {__version__} ({CODEC} codec, {DATA_PATH} data path, {platform.python_implementation()} "
        f"{platform.python_version()}, trio {trio.__version__})"
    )
    if SLOW:
        click.echo(HINT)
    context.exit()


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, what is compiled, Python and trio.",
)
def main() -> None:
    """Kakitome, registered mail for WebSockets: a gateway that knows how far every message got."""
    if os.getpid() == 1:
        # For a container's first process the kernel ignores SIGTERM until somebody handles it (pid_namespaces(7)):
        # one that is stopped while it still starts would be waited for, and then killed.
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))


@main.command(epilog=_EPILOG)
@_config_option
def serve(path: Path) -> None:
    """Run the gateway.

    \b
    SIGHUP   read the configuration again; also done when the file changes
    SIGTERM  close all connections in order, then exit; a second one exits at once
    """
    need_linux()
    loaded = _load(path)
    config = loaded.config

    from gateway.server import Server
    from gateway.telemetry import logs
    from gateway.transport.descriptors import use_all

    async def run() -> None:
        await Server(config, config_path=path, kept_files=loaded.kept).serve()

    # What was imported and configured stays for good: looking through it for garbage again and again holds everybody
    # up, for 60 ms each time.
    gc.collect()
    gc.freeze()
    # A handshake makes some hundred objects that are garbage a moment later, and hardly any of them in a circle: with
    # Python's 700 every other one would be the occasion to look through all that are young.
    gc.set_threshold(YOUNG_OBJECTS)

    logs.configure(format=config.log.format, level=config.log.level)
    use_all()
    run_until_done(run)


def _check_bind(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from gateway.config.addresses import parse_bind

    try:
        parse_bind(value)
    except ValueError as fault:
        raise click.BadParameter(str(fault)) from None
    return value


@main.command(epilog=_EPILOG)
@click.option(
    "--bind",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="ADDRESS",
    callback=_check_bind,
    help="Where the page is served: host:port, [v6]:port or unix:PATH.",
)
def demo(bind: str) -> None:
    """Run the demonstration: the gateway, a page, and four backends.

    Needs no configuration and no network. Open the URL that it prints in a browser; Ctrl-C ends it.
    """
    need_linux()
    from gateway.demo.run import run_demo
    from gateway.telemetry import logs

    def announce(url: str) -> None:
        click.echo(f"Kakitome's demonstration: {click.style(url, bold=True)} (Ctrl-C ends it)")

    logs.configure(format="console" if sys.stderr.isatty() else "json")
    run_until_done(partial(run_demo, bind=bind, announce=announce))


@main.command(epilog=_EPILOG)
@click.argument("path", metavar="FILE", envvar="KAKITOME_CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--no-files",
    is_flag=True,
    help="Do not look at certificates, secrets and folders: the file is for another machine.",
)
def check(path: Path, no_files: bool) -> None:
    """Name everything that is wrong with a configuration.

    Each fault is one line, FILE:LINE: KEY: what is wrong; all of them at once. A good file is summed up.
    """
    config = _load(path, read_files=not no_files, faults_to=sys.stdout).config
    click.echo(f"{path}: good")
    for line in _summary(config):
        click.echo(line)
    for line in _hints(config):
        click.echo(line)


@main.command(epilog=_EPILOG)
@click.option("--markdown", is_flag=True, help="Print the reference for people instead, as in docs/configuration.md.")
def schema(markdown: bool) -> None:
    """Print the JSON Schema of the configuration."""
    if markdown:
        from gateway.config.reference import reference

        click.echo(reference(), nl=False)
    else:
        from gateway.config.schema import schema as config_schema

        click.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))


@main.command(epilog=_EPILOG)
@click.argument("subject")
@click.option(
    "--secret",
    "secret_file",
    envvar="KAKITOME_TICKET_SECRET_FILE",
    show_envvar=True,
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file that holds one of the route's ticket.secrets; never the secret itself, which others could see.",
)
@click.option("--for", "good_for", default="60s", show_default=True, metavar="DURATION", help="How long it is good.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="Something else to say of SUBJECT.")
@click.option("--route", default=None, help="The only route that it is good for.")
@click.option("--origin", default=None, help="The only page that it is good for, as https://app.example.com.")
def ticket(
    subject: str, secret_file: Path, good_for: str, claims: tuple[str, ...], route: str | None, origin: str | None
) -> None:
    """Print a ticket that lets SUBJECT in, once.

    What your application does for its own users; here for scripts, and to try a route.
    """
    import time

    from gateway.access.tickets import make_ticket
    from gateway.config.access import MIN_SECRET_BYTES
    from gateway.config.units import parse_duration

    said = dict(claim.partition("=")[::2] for claim in claims)
    said |= {name: value for name, value in (("route", route), ("origin", origin)) if value is not None}
    if any("=" not in claim for claim in claims):
        raise click.BadParameter("must be NAME=VALUE", param_hint="--claim")
    try:
        seconds = parse_duration(good_for)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--for") from None
    try:
        secret = secret_file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as fault:
        raise click.BadParameter(f"cannot read {secret_file}: {fault}", param_hint="--secret") from None
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise click.BadParameter(f"the secret in {secret_file} has fewer than {MIN_SECRET_BYTES} bytes")
    click.echo(make_ticket(secret, subject=subject, now=time.time(), good_for_seconds=seconds, claims=said))


@main.command(epilog=_EPILOG)
@click.option(
    "--admin",
    "address",
    envvar="KAKITOME_ADMIN",
    show_envvar=True,
    default="127.0.0.1:9090",
    show_default=True,
    metavar="ADDRESS",
    help="The gateway's admin listener: host:port, [v6]:port or unix:PATH.",
)
@click.option("--ready", is_flag=True, help="Ask whether it takes connections (/readyz), not only whether it lives.")
def probe(address: str, ready: bool) -> None:
    """Ask a running gateway how it does.

    For health checks where there is no curl, as in the container image. Prints what the gateway answers; the exit
    status is 0 when all is well, else 1.
    """
    from http.client import HTTPException

    from gateway.admin.probe import ask

    try:
        health = ask(address, "/readyz" if ready else "/healthz")
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--admin") from None
    except (OSError, HTTPException) as fault:
        click.echo(f"{click.style('kakitome:', fg='red')} {address} does not answer: {fault!r}", err=True)
        sys.exit(ExitStatus.FAILED)
    click.echo(health.text)
    if not health.good:
        sys.exit(ExitStatus.FAILED)


@main.command(epilog=_EPILOG)
@click.argument("url", required=False)
@click.option(
    "--client",
    type=click.Choice(["records", "plain"]),
    default="records",
    show_default=True,
    help="What the clients speak: kakitome.v1, or nothing but WebSocket.",
)
@click.option(
    "--backend",
    type=click.Choice(["records", "stream", "websocket"]),
    default="records",
    show_default=True,
    help="What the trial's own backend speaks; websocket is for gateways that pass WebSockets through.",
)
@click.option(
    "--backend-bind",
    default="127.0.0.1:0",
    metavar="HOST:PORT",
    callback=_check_bind,
    help="Where the gateway at URL finds its backend: the trial listens there.",
)
@click.option("--gateway-command", metavar="COMMAND", help="Starts the gateway at URL; needed to kill it.")
@click.option("--name", default=None, help="What the report calls the gateway.")
@click.option("--clients", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--messages", type=click.IntRange(1), default=1000, show_default=True, help="Of each client, each way.")
@click.option("--faults", type=click.IntRange(0), default=100, show_default=True, help="In all.")
@click.option(
    "--kill", "kills", type=click.IntRange(0), default=0, help="SIGKILLs of the gateway; and as many of the backend."
)
@click.option("--seed", type=click.IntRange(0), default=None, help="Repeats a trial's messages and faults.")
@click.option(
    "--patience", type=float, default=60.0, show_default=True, help="Seconds without progress until it is over."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def trial(
    url: str | None,
    client: str,
    backend: str,
    backend_bind: str,
    gateway_command: str | None,
    name: str | None,
    clients: int,
    messages: int,
    faults: int,
    kills: int,
    seed: int | None,
    patience: float,
    as_json: bool,
) -> None:
    """Put a WebSocket gateway through a loss trial.

    Clients and a backend send each other numbered messages through the gateway at URL, while connections are cut,
    reset, stalled, swallowed, slowed and half-closed, and processes killed. The report says what arrived, and whether
    senders were told the truth. Without URL the trial starts Kakitome itself. Exit status 1: less was kept than the
    pairing of client and backend promises.
    """
    need_linux()
    import secrets

    from gateway.config.addresses import TcpAddress, parse_bind
    from gateway.trial.command import run
    from gateway.trial.trial import BackendKind, ClientKind, Settings

    bind = parse_bind(backend_bind)
    if not isinstance(bind, TcpAddress):
        raise click.BadParameter("the backend needs a TCP address", param_hint="--backend-bind")
    settings = Settings(
        url=url,
        name=name or ("kakitome" if url is None else url),
        gateway_command=gateway_command,
        backend_bind=(bind.host, bind.port),
        client=ClientKind(client),
        backend=BackendKind(backend),
        clients=clients,
        messages=messages,
        faults=faults,
        kills=kills,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        patience_seconds=patience,
    )
    try:
        kept = run(settings, as_json=as_json)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    if not kept:
        sys.exit(ExitStatus.FAILED)


def _header(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    headers = []
    for value in values:
        name, colon, content = value.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{value!r} is no header: write 'Name: value'")
        headers.append((name.strip(), content.strip()))
    return tuple(headers)


@main.command(epilog=_EPILOG)
@click.argument("url")
@click.option("--session", is_flag=True, help="Speak kakitome.v1: show receipts, resume, tell what got lost.")
@click.option("--binary", is_flag=True, help="Bytes in, bytes out. Without it each line is a text message.")
@click.option("--subprotocol", "subprotocols", multiple=True, metavar="NAME", help="Offer it; may be repeated.")
@click.option(
    "--header", "headers", multiple=True, metavar="'NAME: VALUE'", callback=_header, help="Add it; may be repeated."
)
@click.option("--origin", metavar="ORIGIN", help="Say that a page of this origin connects.")
@click.option(
    "--ca",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Trust these certificates (PEM) instead of the system's.",
)
@click.option("--insecure", is_flag=True, help="Trust any certificate.")
@click.option(
    "--ping",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="Silence after which a ping is sent; when it lasts as long again, the connection is given up.",
)
@click.option("--one", is_flag=True, help="End after the first message that comes.")
@click.option(
    "--linger",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="At the end of the input, wait until nothing has come for so long.  [default: 1; 0 at a terminal]",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what is wrong.")
def connect(
    url: str,
    session: bool,
    binary: bool,
    subprotocols: tuple[str, ...],
    headers: tuple[tuple[str, str], ...],
    origin: str | None,
    ca: Path | None,
    insecure: bool,
    ping: float,
    one: bool,
    linger: float | None,
    quiet: bool,
) -> None:
    """Talk to a WebSocket server from the terminal: lines in, messages out.

    \b
    kakitome connect wss://echo.example.com/
    echo hello | kakitome connect --one ws://127.0.0.1:8080/hello/me
    ssh -o ProxyCommand='kakitome connect --binary wss://gate.example.com/ssh' host

    Messages go to standard output, everything else to standard error. At the end of the input the connection is closed
    with 1000, and what the service still answers is shown; so it is on SIGINT, SIGTERM and SIGHUP, without waiting.
    A gateway waits for that as long as its `timeouts.close` allows, and a service that takes longer is told of.
    SIGHUP that was ignored at the start, as under nohup, stays ignored. The exit status is 1 when the server refuses,
    when it closes with another code than 1000, 1001 or none or before all of the input was sent, when lines were sent
    and nothing at all came back (with --linger 0 nothing is expected), and with --session when a message was not
    settled, or one of the service's came behind the end of the input, which ends both ways there.
    """
    from gateway.client import terminal

    if session and subprotocols:
        raise click.UsageError("--session speaks kakitome.v1: leave out --subprotocol")
    try:
        call = terminal.Call(
            url=url,
            session=session,
            binary=binary,
            subprotocols=subprotocols,
            headers=headers,
            origin=origin,
            ssl_context=terminal.trusting(ca, insecure=insecure) if ca is not None or insecure else None,
            keepalive_seconds=ping,
            one=one,
            linger_seconds=linger,
            quiet=quiet,
        )
        outcome = terminal.run(call)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    except KakitomeError as fault:
        fail(fault)
    for number, ended in terminal.SIGNALS.items():
        if outcome is ended:
            sys.exit(128 + number)
    if outcome is not terminal.Outcome.DONE:
        sys.exit(ExitStatus.FAILED)


# --- what the commands share --------------------------------------------------------------------------------------


def _load(path: Path, *, read_files: bool = True, faults_to: TextIO | None = None) -> "Loaded":
    """The configuration, or one line for each of its faults to `faults_to` (standard error) and exit status 2."""
    from gateway.config import load_with_files

    try:
        return load_with_files(path, read_files=read_files)
    except ConfigUnreadable as fault:
        fail(fault)
    except ConfigError as fault:
        for line in fault.lines():
            click.echo(line, file=faults_to or sys.stderr)
        sys.exit(ExitStatus.CONFIG_FAULTY)


def _summary(config: "Config") -> Iterator[str]:
    """Listeners and routes, one a line, in columns."""
    rows = [
        ("listener", str(listener.bind), "ws, http" if listener.tls is None else "wss, https")
        for listener in config.listeners
    ]
    if config.admin is not None:
        rows.append(("admin", str(config.admin.bind), "http"))
    rows += [
        (f"route {route.name}", f"{route.match.host or ''}{route.match.path}", _goal(route)) for route in config.routes
    ]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    for kind, place, goal in rows:
        yield f"  {kind:<{first}}  {place:<{second}}  {goal}"


def _hints(config: "Config") -> Iterator[str]:
    """What is good, and may be a surprise."""
    names = [
        route.name
        for route in config.routes
        if route.backend is not None
        and "same-origin" in route.origins
        and "*" not in route.origins
        and route.match.host is None
    ]
    if names and not config.hosts:
        yield (
            f"  note: same-origin, of {', '.join(names)}, holds for addresses, localhost and hosts that routes match; "
            "name the hosts that browsers use in hosts"
        )


def _goal(route: "Route") -> str:
    if route.logout is not None:
        return f"logouts at {', '.join(issuer.issuer for issuer in route.logout.issuers)}"
    if route.backend is None:
        return f"files of {route.files}"
    choice = route.backend.endpoint_from
    if choice is None:
        goal = ", ".join(map(str, route.backend.endpoints))
    else:
        goal = f"what {choice.file} has" if choice.claim is None else f"what the claim {'.'.join(choice.claim)} has"
    return f"{route.backend.framing} to {goal}"
