"""Runs a session's handler, and runs it again when it raises: one hiccup costs a user nothing.

Invariant: a message whose handler raised comes again, with whatever else was taken and not acknowledged, until it is
acknowledged or has been given `Limits.attempts` times. Then it is rejected with 1011 and the handler goes on with the
next one, so that no message, however it upsets the handler, costs the session.

The handler is run anew each time, as after a restart of the process. What it did outside a transaction it may do
again. Two things do end the session, with 1011, because nothing else would be true: a handler that raises `attempts`
times in a row with no message in hand, which leaves nothing to reject; and one that leaves a message of its own half
sent, in pieces, and does not go on with it.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from gateway.backend.limits import Limits
from gateway.backend.live import LiveSession
from gateway.backend.session import Session, SessionEnded
from gateway.codes import INTERNAL

logger: Final = logging.getLogger("kakitome.backend")

Handler: TypeAlias = Callable[[Session], Awaitable[None]]


class Retries:
    """How often the handler of one session has failed over the same message, and when it may try again."""

    __slots__ = ("_blamed", "_limits", "attempt")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._blamed: int | None = None
        self.attempt = 1
        """The run that is due: 1 for the first, or the first after a message that made no trouble."""

    def failed(self, seq: int | None, *, ran_seconds: float) -> float | None:
        """The handler raised with message `seq` in hand, None for none: seconds to wait, None when it is tried no more.

        Failures that have nothing in common, not even the time, are each the first.
        """
        if seq != self._blamed or (seq is None and ran_seconds > self._limits.longest_retry):
            self.attempt = 1
        self._blamed = seq
        if self.attempt >= self._limits.attempts:
            self.attempt = 1
            return None
        delay = min(self._limits.first_retry * 2.0 ** (self.attempt - 1), self._limits.longest_retry)
        self.attempt += 1
        return delay


async def handle(live: LiveSession, handler: Handler, limits: Limits) -> None:
    """Runs `handler` until it has returned, or there is nothing more to be done; the session has ended then.

    The boundary of one handler: no Exception gets out of it.
    """
    conversation, retries = live.conversation, Retries(limits)
    while True:
        session = Session(live, message_bytes=limits.message_bytes, attempt=retries.attempt)
        began = anyio.current_time()
        try:
            await handler(session)
            session.finish_current()
            session.close()
            return
        except Exception as error:
            if session.ended and _is_only_session_ended(error):
                return
            if session.is_done:
                logger.exception("session %s: the handler failed after its session had ended", live.id)
                return
            in_hand = conversation.inbox.in_hand
            delay = retries.failed(in_hand, ran_seconds=anyio.current_time() - began)
            what = "with no message in hand" if in_hand is None else f"on message {in_hand}"
            then = "gives it up" if delay is None else f"runs again in {delay:g} s, attempt {retries.attempt}"
            logger.exception("session %s: the handler failed %s, and %s", live.id, what, then)
        if not _recover(live, session, in_hand if delay is None else None, gives_up=delay is None):
            return
        await anyio.sleep(delay or 0)


def _recover(live: LiveSession, session: Session, rejected: int | None, *, gives_up: bool) -> bool:
    """Puts back what the handler had in hand, but for what is rejected; False where it cannot go on."""
    conversation = live.conversation
    for seq in conversation.inbox.put_back():
        session.reject(seq, INTERNAL, "the backend failed over this message, which is too large to be tried again")
    if rejected is not None:
        session.reject(rejected, INTERNAL, "the backend failed to handle this message")
    conversation.outbox.restart_pieces()
    if not gives_up:
        return True
    if conversation.outbox.in_pieces:
        conversation.close(INTERNAL, "the backend left a message unfinished", at_once=True)
    elif rejected is None:
        conversation.close(INTERNAL, "the backend failed")
    else:
        return True
    live.wake()
    return False


def _is_only_session_ended(error: Exception) -> bool:
    """Whether a handler failed just because its session had ended, be it in one of its tasks."""
    if isinstance(error, ExceptionGroup):
        return error.split(SessionEnded)[1] is None
    return isinstance(error, SessionEnded)
