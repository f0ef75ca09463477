"""A backend that sends every message back as it comes, piece by piece, so that its size does not matter.

python -m gateway.backend.echo --port 9000
"""

import signal
from functools import partial

import anyio
import click

from gateway.backend.service import Address, serve
from gateway.backend.session import Session


async def echo(session: Session) -> None:
    """Text goes back as text, binary as binary."""
    async for piece in session.pieces():
        await session.send_piece(piece.data, text=piece.text, last=piece.last)


class _Announcement:
    """Says on standard output where the service listens, for whoever started it with port 0."""

    def started(self, value: Address | None = None) -> None:
        """The service is ready for connections."""
        click.echo(f"listening on {value[0]}:{value[1]}" if isinstance(value, tuple) else f"listening on {value}")


async def run(host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM."""
    async with anyio.create_task_group() as tasks:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            tasks.start_soon(partial(serve, echo, host=host, port=port, task_status=_Announcement()))
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()


@click.command(help=__doc__)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="Port to listen on; 0 for any that is free.")
def main(host: str, port: int) -> None:
    """The command."""
    anyio.run(run, host, port, backend="trio")


if __name__ == "__main__":
    main()
