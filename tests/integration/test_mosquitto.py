"""Mosquitto behind a `stream` route: MQTT over WebSocket, with the subprotocol `mqtt`, at QoS 1."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import pytest
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.integration.conftest import Edge, OpenEdge
from tests.support.gateway import route
from tests.support.services import mosquitto_broker

PATIENCE_SECONDS = 20


class Subscriber:
    """A client that is subscribed to everything below `orders/`."""

    def __init__(self, client: Client) -> None:
        self.subscribed = Event()
        self.messages: Queue[MQTTMessage] = Queue()
        client.on_subscribe = lambda *_: self.subscribed.set()
        client.on_message = lambda _client, _data, message: self.messages.put(message)
        client.subscribe("orders/#", qos=1)
        assert self.subscribed.wait(PATIENCE_SECONDS)


def connect(edge: Edge) -> Client:
    """An MQTT client connected through the gateway; its thread runs until `disconnect` and `loop_stop`."""
    connected = Event()
    reasons: list[ReasonCode] = []

    def note_connected(
        _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        reasons.append(reason)
        connected.set()

    client = Client(CallbackAPIVersion.VERSION2, transport="websockets")
    client.ws_set_options(path="/mqtt")
    if edge.scheme == "wss":
        client.tls_set(ca_certs=str(edge.certificates.authority_file), tls_version=ssl.PROTOCOL_TLS_CLIENT)
    client.on_connect = note_connected
    client.connect("localhost", edge.port)
    client.loop_start()
    assert connected.wait(PATIENCE_SECONDS)
    assert not reasons[0].is_failure
    return client


@pytest.fixture
def dial(open_edge: OpenEdge, tmp_path: Path) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []
    with mosquitto_broker(tmp_path) as port:
        # paho answers pings with unmasked pongs, for which RFC 6455 section 5.1 fails it: it gets no ping.
        quiet: dict[str, Any] = {"delivery": {"fence": False}, "timeouts": {"keepalive": None}}
        mqtt = route("mqtt", "/mqtt", f"tcp://127.0.0.1:{port}", subprotocols=["mqtt"], **quiet)
        with open_edge([mqtt]) as edge:

            def dial() -> Client:
                clients.append(connect(edge))
                return clients[-1]

            yield dial
            for client in clients:
                client.disconnect()
                client.loop_stop()


def test_a_message_published_at_qos_1_reaches_the_subscriber(dial: Callable[[], Client]) -> None:
    subscriber = Subscriber(dial())
    published = dial().publish("orders/1", "どやさ".encode(), qos=1)
    published.wait_for_publish(PATIENCE_SECONDS)
    assert published.is_published(), "the broker's PUBACK came back through the gateway"
    message = subscriber.messages.get(timeout=PATIENCE_SECONDS)
    assert (message.topic, message.payload.decode(), message.qos) == ("orders/1", "どやさ", 1)


def test_five_hundred_messages_arrive_in_order(dial: Callable[[], Client]) -> None:
    subscriber = Subscriber(dial())
    publisher = dial()
    sent = [f"{number}".encode() * 50 for number in range(500)]
    for payload in sent:
        publisher.publish("orders/many", payload, qos=1)
    assert [subscriber.messages.get(timeout=PATIENCE_SECONDS).payload for _ in sent] == sent
