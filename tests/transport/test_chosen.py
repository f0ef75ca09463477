"""Chosen endpoints: each is dialled by a connector of its own, and a name leads only to where it may."""

import socket
from ipaddress import ip_network
from typing import Any

import pytest

import gateway.transport.chosen
from gateway.config import Backend
from gateway.errors import BackendUnreachable
from gateway.policy.destinations import Destination
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.chosen import ChosenConnectors
from gateway.transport.connector import CHOSEN, Connector
from gateway.transport.resolving import Resolver
from tests.transport.endpoints import listening

CHOICE = {"endpoint_from": {"claim": "at", "allow": [{"networks": ["127.0.0.0/8"], "ports": ["1-65535"]}]}}


class Names:
    """Leads every name to `address`."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def __call__(self, host: str) -> list[tuple[int, tuple[Any, ...]]]:
        return [(socket.AF_INET, (self.address, 0))]


def base(names: Names | None = None, **options: object) -> Connector:
    backend = Backend.model_validate({**CHOICE, "health": None, "resolve": 1000.0, **options})
    return Connector(backend, route="vnc", resolver=Resolver(names))


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


async def test_each_is_dialled_and_the_metrics_have_one_line_for_all() -> None:
    with listening() as (one, _), listening() as (two, _):
        connector = base()
        chosen = ChosenConnectors(connector)
        for sock in (one, two, one):
            destination = Destination(host="127.0.0.1", port=port_of(sock), networks=None)
            dialed = await chosen.towards(destination).dial(key=b"")
            assert dialed.connector is chosen.towards(destination)
            assert dialed.state.name == f"tcp://127.0.0.1:{port_of(sock)}"
            dialed.close()
        (reading,) = connector.readings()
        assert (reading.endpoint, reading.up, reading.dials[DialOutcome.CONNECTED]) == (CHOSEN, None, 3)
        assert connector.up
        reloaded = Connector(connector.backend, route="vnc", previous=connector)
        (reading,) = reloaded.readings()
        assert reading.dials[DialOutcome.CONNECTED] == 3


async def test_a_name_is_not_dialled_where_it_leads_out_of_its_networks_and_not_when_it_turns_there_either() -> None:
    names = Names("127.0.0.2")
    with listening() as (sock, _):
        connector = base(names)
        inside = Destination(host="vm.test", port=port_of(sock), networks=(ip_network("127.0.0.1/32"),))
        towards = ChosenConnectors(connector).towards(inside)
        with pytest.raises(BackendUnreachable, match="none of its addresses"):
            await towards.dial(key=b"")
        names.address = "127.0.0.1"
        towards.addresses.refresh(older_than=float("inf"))
        (await towards.dial(key=b"")).close()
        names.address = "127.0.0.3"
        towards.addresses.refresh(older_than=float("inf"))
        await towards.addresses.resolver.news()
        with pytest.raises(BackendUnreachable, match="none of its addresses"):
            await towards.dial(key=b"")


async def test_however_many_are_chosen_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.transport.chosen, "MOST_REMEMBERED", 2)
    chosen = ChosenConnectors(base())
    made = [chosen.towards(Destination(host="127.0.0.1", port=port, networks=None)) for port in (1, 2, 1, 3, 1, 2)]
    assert made[0] is made[2] is made[4]
    assert made[5] is not made[1]
