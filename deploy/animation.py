"""Draws the moving picture of the README, docs/kakitome.svg: `python -m deploy.animation`.

Six messages, and a connection that is cut under the fourth. Every animation lasts the whole picture and has no delay:
one moment of it can be looked at by setting all delays to it. Who asks for less motion sees the end.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Final

SECONDS: Final = 12.0
WIDTH, HEIGHT = 820, 300
LINE: Final = 96
PAGE, GATEWAY, SERVICE = 110, 410, 710
HALF_BOX: Final = 66
"""Half of a box's width; messages travel between the edges."""

SENT: Final = (0.4, 1.0, 1.6, 5.4, 6.0, 6.6)
"""When each message leaves the page for the time that counts."""
CUT, BACK = 2.7, 5.0
FIRST_TRY: Final = 2.3
"""When the fourth message leaves in vain."""
RUNGS: Final = ("accepted", "written", "reached", "consumed")
CLIMBS: Final = (0.6, 0.9, 1.3, 1.7)
"""Seconds after it was sent at which a message is at each rung."""

CAPTIONS: Final = (
    (0.0, CUT, "Each message climbs: accepted, written, reached, consumed."),
    (CUT, BACK, "The connection is cut. Where is the fourth message?"),
    (BACK, 8.6, "Back: 1 to 3 are known to be consumed, the rest is sent again."),
    (8.6, SECONDS, "All consumed. None lost, none doubled, nothing guessed."),
)

Step = tuple[float, str]
"""Seconds, and the CSS that holds from there."""


def keyframes(name: str, steps: Iterable[Step]) -> str:
    """Between two steps of one property CSS moves evenly; two steps at one moment are a jump."""
    shares = []
    last = -1.0
    for seconds, css in steps:
        share = max(seconds / SECONDS * 100, last + 0.01)
        last = share
        shares.append(f"{min(share, 100):.2f}%{{{css}}}")
    return f"@keyframes {name}{{{''.join(shares)}}}"


def shown(spans: Sequence[tuple[float, float]]) -> list[Step]:
    """Visible within these spans of time, and not outside of them."""
    steps: list[Step] = [(0.0, f"opacity:{int(spans[0][0] <= 0)}")]
    for begin, end in spans:
        if begin > 0:
            steps += [(begin, "opacity:0"), (begin, "opacity:1")]
        if end < SECONDS:
            steps += [(end, "opacity:1"), (end, "opacity:0")]
    steps.append((SECONDS, f"opacity:{int(spans[-1][1] >= SECONDS)}"))
    return steps


def travel(number: int) -> list[Step]:
    """Where a message is, from its first appearance to its arrival."""
    sent = SENT[number]
    start, near = PAGE + HALF_BOX + 14, GATEWAY - HALF_BOX - 14
    far, end = GATEWAY + HALF_BOX + 14, SERVICE - HALF_BOX - 14

    def at(x: float, opacity: float = 1) -> str:
        return f"transform:translate({x:.0f}px,{LINE}px);opacity:{opacity:g}"

    steps: list[Step] = [(0.0, at(start, 0))]
    if number == 3:
        steps += [(FIRST_TRY, at(start, 0)), (FIRST_TRY, at(start)), (CUT, at((start + near) / 2))]
        steps += [(CUT + 0.5, f"transform:translate({(start + near) / 2:.0f}px,{LINE + 46}px);opacity:0")]
        steps += [(BACK, at(start, 0))]
    steps += [(sent, at(start, 0)), (sent, at(start)), (sent + 0.6, at(near)), (sent + 0.6, at(far))]
    steps += [(sent + 1.2, at(end)), (sent + 1.3, at(end, 0)), (SECONDS, at(end, 0))]
    return steps


def picture() -> str:
    """The whole SVG."""
    styles: list[str] = []
    parts: list[str] = []

    def animated(name: str, steps: Iterable[Step], still: str) -> str:
        """A class with this animation; `still` is what those see who want no motion."""
        styles.append(keyframes(name, steps))
        styles.append(f".{name}{{{still};animation-name:{name}}}")
        return f'class="a {name}"'

    for x, title, below in (
        (PAGE, "your page", "kakitome.js"),
        (GATEWAY, "kakitome", "WebSocket to TCP"),
        (SERVICE, "your service", "speaks records"),
    ):
        parts.append(
            f'<rect class="box" x="{x - HALF_BOX}" y="{LINE - 40}" width="{2 * HALF_BOX}" height="80" rx="10"/>'
            f'<text class="title" x="{x}" y="{LINE - 2}">{title}</text>'
            f'<text class="small" x="{x}" y="{LINE + 20}">{below}</text>'
        )
    near_line = f'x1="{PAGE + HALF_BOX}" y1="{LINE}" x2="{GATEWAY - HALF_BOX}" y2="{LINE}"'
    parts.append(f"<line {animated('line', shown([(0, CUT), (BACK, SECONDS)]), 'opacity:1')} {near_line}/>")
    parts.append(f'<line class="line" x1="{GATEWAY + HALF_BOX}" y1="{LINE}" x2="{SERVICE - HALF_BOX}" y2="{LINE}"/>')
    middle = (PAGE + GATEWAY) / 2
    cross = f"M{middle - 11:.0f} {LINE - 11}l22 22m0-22l-22 22"
    parts.append(f'<path {animated("cut", shown([(CUT, BACK)]), "opacity:0")} d="{cross}"/>')

    for number, sent in enumerate(SENT):
        body = '<rect class="mail" x="-13" y="-10" width="26" height="20" rx="3"/>'
        body += f'<text class="number" x="0" y="5">{number + 1}</text>'
        parts.append(f"<g {animated(f'm{number}', travel(number), 'opacity:0')}>{body}</g>")
        left = 130 + number * 100
        parts.append(f'<text class="small" x="{left + 17}" y="232">{number + 1}</text>')
        for rung, climb in enumerate(CLIMBS):
            bar = f'x="{left + rung * 9}" y="{214 - 9 * rung - 9}" width="7" height="{9 * rung + 9}"'
            parts.append(f'<rect class="unlit" {bar}/>')
            lit = animated(f"b{number}{rung}", shown([(sent + climb, SECONDS)]), "opacity:1")
            parts.append(f"<rect {lit.replace('a ', 'a lit ')} {bar}/>")
    for number, (begin, end, words) in enumerate(CAPTIONS):
        still = f"opacity:{int(end >= SECONDS)}"
        parts.append(
            f"<text {animated(f'c{number}', shown([(begin, end)]), still).replace('a ', 'a caption ')}"
            f' x="{WIDTH // 2}" y="272">{words}</text>'
        )

    style = (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;text-anchor:middle}"
        ".ground{fill:#fff}.box{fill:#eef3f9;stroke:#1f3a5f;stroke-width:2}.title{font-size:16px;font-weight:600;fill:#1f3a5f}"
        ".small{font-size:12px;fill:#55657a}.line{stroke:#1f3a5f;stroke-width:2;stroke-dasharray:5 4}"
        ".cut{stroke:#c8322b;stroke-width:5;fill:none;stroke-linecap:round}"
        ".mail{fill:#c8322b}.number{font-size:13px;font-weight:700;fill:#fff}.unlit{fill:#dbe3ec}.lit{fill:#2f7d4f}"
        ".caption{font-size:17px;fill:#1f3a5f}"
        f".a{{animation-duration:{SECONDS:g}s;animation-iteration-count:infinite;animation-timing-function:linear}}"
        + "".join(styles)
        + "@media (prefers-reduced-motion:reduce){.a{animation-name:none!important}}"
        "@media (prefers-color-scheme:dark){.ground{fill:#0d1117}.box{fill:#16202e;stroke:#8fb3dd}"
        ".title,.caption{fill:#dce8f6}.small{fill:#9fb0c4}.line{stroke:#8fb3dd}.unlit{fill:#2a3645}.lit{fill:#57b581}}"
    )
    label = "Six messages go from a page through Kakitome to a service; the connection is cut under the fourth."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'<style>{style}</style><rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="12"/>'
        f"{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    sys.stdout.write(picture())
