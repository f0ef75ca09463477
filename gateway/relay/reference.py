"""The page on how a session ends, docs/ending.md, made from the table: `python -m gateway.relay.reference`."""

import sys
from typing import Final

from gateway.relay.closing import ECHO_LINGER_SECONDS, TRANSITIONS, State

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
No state lasts for ever. The client's Close is answered after {linger:g} s at the latest, or as soon as the backend has
ended; the last message and its fence have half of what is left of the drain window, `timeouts.close` at the most. In
the other states `timeouts.close` is how long nothing may move. A state whose time is over is left by *overdue*: without
what it waited for. In CLOSING that means that both sides are cut, and what is unsettled then is reported as unknown.

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
    return f"{_INTRODUCTION}{diagram}\n{_STATES}{table}\n{_TIME.format(linger=ECHO_LINGER_SECONDS)}"


if __name__ == "__main__":
    sys.stdout.write(reference())
