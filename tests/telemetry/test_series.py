"""What a scrape costs, and what the options spare."""

import re

from gateway.config.model import MetricsDetail
from gateway.telemetry.exposition import Exporter
from gateway.telemetry.metrics import BackendReading, Detail, DialOutcome, HandshakeOutcome, Metrics
from gateway.telemetry.series import BRIEF, series
from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.tools import REPOSITORY


async def exposed(metrics: Metrics) -> list[str]:
    body = (await Exporter(metrics).expose()).body.decode()
    return [line for line in body.splitlines() if line.startswith("kakitome_")]


def two_endpoints(metrics: Metrics, *up: bool | None) -> None:
    metrics.route("chat")
    metrics.backends = lambda: [
        BackendReading(
            route="chat", endpoint=f"tcp://chat-{place}:9000", up=its, dials={DialOutcome.CONNECTED: place + 1}
        )
        for place, its in enumerate(up)
    ]


async def test_what_is_counted_is_what_a_scrape_has() -> None:
    metrics = Metrics()
    metrics.backends = lambda: [BackendReading(route="route-0", endpoint="tcp://backend-0:9000", up=True, dials={})]
    metrics.route("route-0")
    assert series(routes=1, endpoints=1, detail=Detail(), used=False) == len(await exposed(metrics))


async def test_endpoints_told_as_one_are_summed_and_up_when_any_is() -> None:
    for up, told in (((True, False), ["1"]), ((False, False), ["0"]), ((None, False), []), ((None, None), [])):
        metrics = Metrics()
        metrics.detail = Detail(per_endpoint=False)
        two_endpoints(metrics, *up)
        lines = await exposed(metrics)
        assert 'kakitome_backend_dials_total{route="chat",endpoint="",outcome="connected"} 3' in lines
        assert [line.split()[-1] for line in lines if line.startswith("kakitome_backend_up{")] == told
        assert "chat-0" not in "".join(lines)


async def test_few_buckets_are_those_of_the_alerts_and_count_the_same() -> None:
    metrics = Metrics()
    metrics.detail = Detail(few_buckets=True)
    delivery = metrics.route("chat").upstream.delivery[3]
    for value in (0.004, 0.4, 4.0, 400.0):
        delivery.observe(value)
    metrics.event_loop_lag_seconds.observe(0.3)
    lines = await exposed(metrics)
    buckets = dict(re.findall(r'delivery_seconds_bucket\{.*le="(.+)"\} (\d+)', "\n".join(lines)))
    assert buckets == {"0.01": "1", "0.1": "1", "1.0": "2", "10.0": "3", "+Inf": "4"}
    rules = (REPOSITORY / "deploy" / "prometheus" / "rules.yaml").read_text()
    assert set(re.findall(r'le="([^"]+)"', rules)) <= buckets.keys()
    assert len([line for line in lines if "event_loop_lag_seconds_bucket" in line]) > 5


async def test_a_route_that_nobody_asked_for_may_be_left_out_until_somebody_does() -> None:
    metrics = Metrics()
    metrics.detail = Detail(idle_routes=False)
    two_endpoints(metrics, True, False)
    assert {name for line in await exposed(metrics) if '"chat"' in line for name in re.findall(r"^\w+", line)} == {
        "kakitome_backend_up",
        "kakitome_backend_dials_total",
    }
    metrics.route("chat").handshakes[HandshakeOutcome.REFUSED] = 1
    assert 'kakitome_handshakes_total{route="chat",outcome="refused"} 1' in await exposed(metrics)


def test_the_options_spare_what_the_docs_say() -> None:
    plain = series(routes=200, endpoints=3, detail=Detail())
    brief = series(routes=200, endpoints=3, detail=BRIEF)
    assert brief < plain * 0.7
    assert series(routes=200, endpoints=30, detail=BRIEF) == brief
    assert f"| 200 | 3 | {plain:,} |" in (REPOSITORY / "docs" / "metrics.md").read_text()


def test_a_gateway_takes_them_from_its_configuration_and_at_a_reload() -> None:
    with tcp_echo() as backend:
        document = {"routes": [route("echo", "/echo", f"tcp://127.0.0.1:{backend}")]}
        with GatewayProcess({**document, "metrics": {"per_endpoint": False, "buckets": "few"}}) as gateway:
            with RawClient(gateway.url("/echo")):
                pass
            text = gateway.ask_admin("/metrics").body
            assert 'kakitome_backend_dials_total{route="echo",endpoint="",outcome="connected"} 1' in text
            assert 'kakitome_handshake_seconds_bucket{route="echo",le="0.005"}' not in text
            gateway.write_config({**gateway.config, "metrics": {}})
            gateway.hang_up()
            gateway.wait_for_event("config_applied")
            text = gateway.ask_admin("/metrics").body
            assert f'endpoint="tcp://127.0.0.1:{backend}",outcome="connected"}} 1' in text
            assert 'kakitome_handshake_seconds_bucket{route="echo",le="0.005"}' in text


def test_the_defaults_of_the_configuration_are_those_of_the_exporter() -> None:
    told, detail = MetricsDetail(), Detail()
    assert (told.per_endpoint, told.buckets == "few", told.idle_routes, told.exemplars) == (
        detail.per_endpoint,
        detail.few_buckets,
        detail.idle_routes,
        detail.exemplars,
    )
