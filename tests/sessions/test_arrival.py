"""What a request that was let in stands for: whom its session is bound to, who dials, what it is answered."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway.access.authorisers import Authorisers
from gateway.access.gatekeeper import Entry
from gateway.access.state import open_state
from gateway.config import TcpAddress
from gateway.config.checks import MAX_INFLATED_BYTES
from gateway.policy.admission import Ticket
from gateway.policy.destinations import Destination
from gateway.policy.forwarded import ClientView
from gateway.policy.principal import Principal
from gateway.protocol.deflate import MODEST
from gateway.protocol.handshake import check_upgrade
from gateway.protocol.http import Request
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import SUBPROTOCOL
from gateway.routes import RouteTable
from gateway.sessions.arrival import MAX_INFLATED_RECORD_BYTES, Arrival, upgrade
from gateway.telemetry.metrics import Metrics
from gateway.transport.channel import Channel
from gateway.transport.listener import Established
from gateway.transport.tls import TlsFacts
from tests.access.doubles import ScriptedAsker, evidence
from tests.sessions.harness import config_of
from tests.sessions.issued import asking
from tests.sessions.routes import stream_route

ALICE = Principal(subject="alice", method="jwt", issuer="https://login.example.com")
DESTINATION = Destination(host="10.0.0.7", port=5900, networks=None)


@dataclass
class Sent:
    """A channel's other end."""

    data: bytearray = field(default_factory=bytearray)

    async def send_all(self, data: bytes) -> None:
        self.data += data

    send_short = send_all


def arriving(
    route: dict[str, Any] | None = None,
    *,
    offers: str = "",
    extensions: str = "",
    principal: Principal | None = None,
    certificate: str | None = None,
    sent: Sent | None = None,
    **facts: Any,
) -> Arrival:
    """A client of a stream backend's route, or of `route`."""
    authorisers = Authorisers(ScriptedAsker(), open_state(None, now=0))
    (service,) = RouteTable(config_of(route or stream_route(9000)), Metrics(), authorisers).services
    headers = [("host", "chat.example.com"), ("connection", "Upgrade"), ("upgrade", "websocket")]
    headers += [("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]
    headers += [("sec-websocket-protocol", offers)] * bool(offers)
    headers += [("sec-websocket-extensions", extensions)] * bool(extensions)
    request = Request.parse(method="GET", target="/", headers=tuple(headers))
    tls = None
    if certificate is not None:
        tls = TlsFacts(
            version="TLSv1.3",
            cipher="",
            server_name=None,
            client_subject=certificate,
            client_common_name=None,
            client_identity=certificate,
        )
    entry = None
    if principal is not None:
        entry = Entry(principal=principal, request=request, evidence=evidence("shown"), awaits_open=False)
    return Arrival(
        service=service,
        established=Established(
            channel=cast("Channel", sent or Sent()),
            peer=TcpAddress(host="192.0.2.7", port=40000),
            local=TcpAddress(host="127.0.0.1", port=8080),
            tls=tls,
            listener="127.0.0.1:8080",
            headers=(("Strict-Transport-Security", "max-age=60"),),
        ),
        request=request,
        upgrade=check_upgrade(request),
        leftover=b"",
        view=ClientView(address="192.0.2.7", port=40000, scheme="https", host="chat.example.com"),
        origin="https://app.example.com",
        entry=entry,
        ticket=cast("Ticket", None),
        handshake_seconds=10.0,
        **facts,
    )


def test_records_are_spoken_by_who_offers_them_where_delivery_is_tracked() -> None:
    assert arriving(offers=f"mqtt, {SUBPROTOCOL}").speaks_records
    assert not arriving(offers="mqtt").speaks_records
    assert not arriving(stream_route(9000, track=False), offers=SUBPROTOCOL).speaks_records


def test_a_session_is_bound_to_all_that_is_known_of_its_client() -> None:
    nobody = arriving().binding
    assert (nobody.route, nobody.origin, nobody.subject) == ("test", "https://app.example.com", None)
    known = arriving(principal=ALICE, certificate="CN=alice", destination=DESTINATION).binding
    assert (known.subject, known.certificate, known.destination) == (ALICE.identity, "CN=alice", "10.0.0.7:5900")
    others = [arriving(principal=ALICE).binding, arriving(certificate="CN=alice").binding, nobody, known]
    assert len(set(others)) == 4


@pytest.mark.parametrize("in_open", [True, False])
def test_another_credential_is_judged_later_only_where_open_may_carry_one(in_open: bool) -> None:
    route = asking(stream_route(9000), credential={"open": in_open, "header": True})
    permission = arriving(route, principal=ALICE).permission
    assert (permission.address, permission.principal) == ("192.0.2.7", ALICE)
    assert (permission.evidence is not None) is in_open


def test_where_nobody_is_asked_there_is_nobody() -> None:
    permission = arriving().permission
    assert (permission.principal, permission.evidence) == (None, None)


def test_who_is_led_to_a_machine_of_their_own_is_dialled_there() -> None:
    allow = [{"networks": ["10.0.0.0/8"], "ports": ["5900-5999"]}]
    route = {"backend": {"endpoint_from": {"claim": "at", "allow": allow}, "health": None}}
    asked = asking(route)
    first, again = (arriving(asked, principal=ALICE, destination=DESTINATION) for _ in range(2))
    assert [str(state.target.address) for state in first.connector.endpoints if state.target] == ["10.0.0.7:5900"]
    assert again.connector is not first.service.connector
    common = arriving()
    assert common.connector is common.service.connector


async def agreed(arrival: Arrival, sent: Sent, subprotocol: str | None = None) -> tuple[str, WebSocketConnection]:
    ws = await upgrade(arrival, subprotocol)
    return sent.data.decode(), ws


async def test_the_answer_says_what_was_agreed() -> None:
    sent = Sent()
    head, _ = await agreed(arriving(offers="mqtt", sent=sent), sent, "mqtt")
    assert head.startswith("HTTP/1.1 101 ")
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert "Sec-WebSocket-Protocol: mqtt\r\n" in head
    assert "Strict-Transport-Security: max-age=60\r\n" in head
    assert "Extensions" not in head


@pytest.mark.parametrize("enabled", [True, False])
async def test_compression_is_agreed_where_it_is_configured_and_offered(enabled: bool) -> None:
    route = {**stream_route(9000), "compression": {"enabled": enabled}}
    for offered in ("permessage-deflate", ""):
        sent = Sent()
        head, _ = await agreed(arriving(route, extensions=offered, sent=sent), sent)
        assert ("Sec-WebSocket-Extensions: permessage-deflate" in head) is (enabled and bool(offered))


@pytest.mark.parametrize(
    ("subprotocol", "limit", "most"),
    [
        (None, 5000, 5000),
        (None, None, MAX_INFLATED_BYTES),
        (SUBPROTOCOL, 5000, MAX_INFLATED_RECORD_BYTES),
    ],
)
async def test_what_is_inflated_is_bounded_by_somebody(subprotocol: str | None, limit: int | None, most: int) -> None:
    """A record has a limit of its own, which is to be the one that is told."""
    route = {
        **stream_route(9000),
        "compression": {"enabled": True, "inflation_ratio": None},
        "limits": {"message_bytes": limit} if limit else {},
    }
    sent = Sent()
    arrival = arriving(route, offers=SUBPROTOCOL, extensions="permessage-deflate", sent=sent)
    _, ws = await agreed(arrival, sent, subprotocol)
    client = WebSocketConnection(client=True, deflate=MODEST)
    for size in (most, most + 1):
        assert ws.error is None
        data = client.send([(int(Opcode.BINARY), bytes(size), FIRST | LAST)])
        ws.receive_data(data)
        while ws.has_pending:
            ws.receive_data(b"")
    assert ws.error is not None
    assert ws.error.close_code == 1009
