"""`python -m gateway.demo`: the demonstration's backends as a service of their own, for a gateway elsewhere."""

import signal
from functools import partial

import click
import trio

from gateway.command import run_until_done
from gateway.demo.backends import run_backends


@click.command(context_settings={"show_default": True})
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--hello-port", default=9001, type=click.IntRange(0, 65535), help="0 for any that is free.")
@click.option("--doyasa-port", default=9002, type=click.IntRange(0, 65535), help="0 for any that is free.")
@click.option("--chat-port", default=9003, type=click.IntRange(0, 65535), help="0 for any that is free.")
@click.option("--echo-port", default=9004, type=click.IntRange(0, 65535), help="0 for any that is free.")
def main(host: str, hello_port: int, doyasa_port: int, chat_port: int, echo_port: int) -> None:
    """Run the demonstration's four backends until SIGINT or SIGTERM.

    Three speak the record protocol: a route reaches them with `framing: records`. The fourth, echo, is a plain TCP
    service that sends back what it gets: `framing: lines`.
    """
    ports = {"hello": hello_port, "doyasa": doyasa_port, "chat": chat_port, "echo": echo_port}
    run_until_done(partial(_run, host, ports))


async def _run(host: str, ports: dict[str, int]) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            addresses = await nursery.start(partial(run_backends, host=host, ports=ports))
            for name, address in addresses.items():
                click.echo(f"{name} listening on {address[0]}:{address[1]}")
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    main(prog_name="python -m gateway.demo")
