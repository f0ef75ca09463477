"""All fuzz targets by name."""

from typing import Final

from tests.fuzz import frames, handshake, messages, proxy_protocol, records
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (
        frames.TARGET,
        messages.TARGET,
        handshake.SERVER,
        handshake.CLIENT,
        records.TARGET,
        proxy_protocol.TARGET,
    )
}
