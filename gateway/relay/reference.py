"""The page on how a session ends, docs/ending.md, made from the table: `python -m gateway.relay.reference`."""

import sys
from typing import Final

from gateway.relay.closing import LAST_WORDS_SHARE, TRANSITIONS, State
from gateway.relay.vitals import STEPS_OF_A_WINDOW

_INTRODUCTION: Final = """\
# How a session ends

The first cause wins: it is what the log line, the metrics and the close code tell. From then on each side goes its own
way to its end. The backend is told (a half-close, or CLOSE for one that speaks records) as soon as everything that was
accepted for it is out. The client gets its Close as soon as everything that was meant for it is out, and what that is
makes the states:

```mermaid
stateDiagram-v2
"""

_STATES: Final = """\
```

| state | meaning |
|---|---|
"""

_TIME: Final = """
## How long

No state lasts for ever. What counts as progress is what the far host acknowledges (`TCP_INFO`; on a Unix socket what
the peer takes out of the queue), not what our own kernel takes: that stands still while a full buffer drains, and goes
on while nobody reads.

- ECHOING ends when the backend has ended. One that ignores the end of its input is waited for until it has said
  nothing for {share:g} of `timeouts.close`, from the moment its host has everything that came before the client's
  Close: a service may take its time to answer to the end of what it was given. A client that is told its own code knows
  that the backend's host has all of it; if the backend has not ended, the reason says so. What it says meanwhile waits
  for no window, which no Pong opens any more, only for the client to take it: as long as that acknowledges more of it.
  Where the rest is stuck, the backend's connection is reset, the rest is reported as unknown, and the client gets
  Close 1014.
- FINISHING_MESSAGE and FENCING have, together, half of what is left of the drain window, `timeouts.close` at the most.
- Elsewhere a side has `timeouts.close` to end once its host has everything. Before, it is stuck when its host answers
  nothing at all for `timeouts.close`, or acknowledges nothing more for {steps} times that: a host whose receive window
  is closed opens it only when its application has read a good part of the buffer (6 to 12 s were measured of one that
  reads 11.5 kB/s).
- A client that speaks records, whose host has everything, has `timeouts.close_total` for what its application does
  with the messages. One that does not take them in that time, or whose host answers nothing, loses its connection, and
  what it has not consumed waits for it (AWAITED). That is so where the backend meant the end: where the session is lost
  (1011 to 1014) it is told so after the times above, and what was dropped for it.
- AWAITED lasts as long as `delivery.grace`, or until the client has said that it knows of the end, by a Close of its
  own: that its host has all of it proves nothing, a reset may have taken it from there. Where the backend
  speaks records and still has the session, a client that comes back is given the rest by it: it may have been told more
  by another gateway. A gateway that restarts, or whose route is drained, awaits nobody: who is slow is told of the end
  after the times above, and of what was dropped for it.
- Each other state lasts for `timeouts.close_total` at the most, however steadily the rest is taken.

A state whose time is over is left by *overdue*, without what it waited for. In CLOSING that means that both sides are
cut, and what is unsettled then is reported as unknown. A backend that has not everything sees a reset, so that it
cannot take a cut-off stream for a complete one; one that has everything sees an ordinary end.

## Why messages are unknown

Who ended the session, with which code, is the first cause. Why messages stayed without evidence
(`kakitome_unknown_messages_total{{reason}}`, `unknown_reason` in `session_ended` and `/sessions/ended`) is told for
each direction by what became of the side that should have given it:

- Messages to the backend of a session that its client has ended: `closed` if the backend ended in good order, `reset`
  if its connection broke, `vanished` if its host answered nothing, `fault` if it did not take them in time.
- Messages to the client of a session that its backend has ended: the same, and where the client was awaited
  `grace_expired`, `evicted` or `drain`, by what ended the wait.
- What ends both sides at once (a fault, a drain, a parked session that is given up) is the reason for both.

This page is made by `python -m gateway.relay.reference` from the table by which sessions are ended
(`gateway/relay/closing.py`).
"""


def reference() -> str:
    """The whole page."""
    lines = [f"    [*] --> {State.OPEN.name}"]
    drawn: dict[tuple[State, State], list[str]] = {}
    for (before, step), after in TRANSITIONS.items():
        drawn.setdefault((before, after), []).append(step.value)
    lines += [f"    {before.name} --> {after.name}: {', '.join(steps)}" for (before, after), steps in drawn.items()]
    lines.append(f"    {State.ENDED.name} --> [*]")
    rows = [f"| {state.name} | {state.value} |" for state in State]
    diagram, table = "\n".join(lines), "\n".join(rows)
    time = _TIME.format(share=LAST_WORDS_SHARE, steps=STEPS_OF_A_WINDOW)
    return f"{_INTRODUCTION}{diagram}\n{_STATES}{table}\n{time}"


if __name__ == "__main__":
    sys.stdout.write(reference())
