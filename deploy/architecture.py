"""Draws docs/architecture.svg, the one picture of docs/architecture.md: `python -m deploy.architecture`."""

import sys
from collections.abc import Sequence
from typing import Final

WIDTH, HEIGHT = 960, 430

Box = tuple[int, int, int, int, str, str]
"""Left, top, width, height, title, and what it does."""

LIFE: Final[Sequence[Box]] = (
    (130, 60, 150, 64, "transport/", "accept, TLS, request"),
    (310, 60, 150, 64, "policy/ access/", "route, origin, who, limits"),
    (490, 60, 150, 64, "sessions/", "begin or resume"),
    (670, 60, 150, 64, "transport/", "dial, balance, health"),
)
BYTES: Final[Sequence[Box]] = (
    (310, 210, 330, 64, "relay/ over protocol/", "pump, sides, lanes; frames, records, framings, ledger"),
)
AROUND: Final[Sequence[Box]] = (
    (130, 340, 150, 64, "config/", "checked, reloaded"),
    (310, 340, 150, 64, "telemetry/", "counters, logs, TCP_INFO"),
    (490, 340, 150, 64, "admin/", "metrics, sessions"),
    (670, 340, 150, 64, "memory/", "one account of it all"),
)
ENDS: Final[Sequence[Box]] = (
    (10, 60, 90, 64, "client", "WebSocket"),
    (10, 210, 90, 64, "client", "established"),
    (860, 210, 90, 64, "backend", "TCP"),
)
ARROWS: Final = (
    (100, 92, 130, 92, ""),
    (280, 92, 310, 92, ""),
    (460, 92, 490, 92, ""),
    (640, 92, 670, 92, ""),
    (565, 124, 565, 210, "101: no task any more"),
    (745, 124, 880, 210, "a socket"),
    (310, 242, 100, 242, ""),
    (100, 242, 310, 242, "bytes"),
    (860, 242, 640, 242, ""),
    (640, 242, 860, 242, "bytes"),
    (385, 274, 385, 340, "counters"),
    (460, 372, 490, 372, ""),
)


def picture() -> str:
    """The whole SVG."""
    parts = []
    for top, height, words in (
        (24, 118, "trio owns life: a task until a connection is established"),
        (176, 116, "one pump moves bytes: bounded turns, no task a connection"),
    ):
        parts.append(f'<rect class="zone" x="114" y="{top}" width="722" height="{height}" rx="12"/>')
        parts.append(f'<text class="words" x="126" y="{top + 19}">{words}</text>')
    for x1, y1, x2, y2, words in ARROWS:
        parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" marker-end="url(#tip)"/>')
        if words:
            parts.append(f'<text class="beside" x="{(x1 + x2) // 2 + 12}" y="{(y1 + y2) // 2 - 5}">{words}</text>')
    for left, top, width, height, title, does in (*LIFE, *BYTES, *AROUND, *ENDS):
        middle = left + width // 2
        parts.append(f'<rect class="box" x="{left}" y="{top}" width="{width}" height="{height}" rx="8"/>')
        parts.append(f'<text class="title" x="{middle}" y="{top + 28}">{title}</text>')
        parts.append(f'<text class="small" x="{middle}" y="{top + 48}">{does}</text>')
    style = (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;text-anchor:middle}"
        ".ground{fill:#fff}.zone{fill:#f4f7fb;stroke:#c3d0e0}.box{fill:#e4ecf6;stroke:#1f3a5f}"
        ".title{font-size:15px;font-weight:600;fill:#1f3a5f}.small{font-size:11px;fill:#45566c}"
        ".words{font-size:12px;font-style:italic;fill:#45566c;text-anchor:start}"
        ".beside{font-size:11px;fill:#45566c;text-anchor:start}"
        "line{stroke:#1f3a5f;stroke-width:1.6}#tip path{fill:#1f3a5f}"
    )
    tip = '<marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">'
    tip += '<path d="M0 0l7 3-7 3z"/></marker>'
    label = "Requests pass transport, policy and sessions; the pump then moves the bytes of established connections."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"<style>{style}</style><defs>{tip}</defs>"
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="12"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    sys.stdout.write(picture())
