"""Where a side stands: what is given to each one when it is made."""

from gateway.memory.account import Tab
from gateway.relay.lane import Lane
from gateway.relay.ports import Junction
from gateway.relay.pump import Pump
from gateway.relay.settings import RelaySettings


class Place:
    """One of the two ends of a junction: `incoming` is the lane of what this side sends us, `outgoing` the other."""

    __slots__ = ("incoming", "junction", "outgoing", "pump", "settings", "tab")

    def __init__(
        self, pump: Pump, junction: Junction, *, incoming: Lane, outgoing: Lane, settings: RelaySettings, tab: Tab
    ) -> None:
        """`tab` is the session's: what it holds is charged there."""
        self.pump = pump
        self.junction = junction
        self.incoming = incoming
        self.outgoing = outgoing
        self.settings = settings
        self.tab = tab
