"""The admin app: what it answers to whom."""

import gzip
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from gateway.admin.app import AdminApp
from gateway.admin.response import Response
from gateway.errors import HandshakeRefused
from gateway.telemetry.metrics import Metrics
from tests.admin.requests import get


class FakeGateway:
    """A gateway whose problems can be set."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.problems: dict[str, object] = {}

    def readiness(self) -> Mapping[str, object]:
        return self.problems


class NoSessions:
    """A directory in which there are none."""

    def live(
        self, *, route: str | None, state: str | None, after: str | None, limit: int
    ) -> Sequence[Mapping[str, object]]:
        return ()

    def describe(self, session_id: str) -> Mapping[str, object] | None:
        return None

    def ended(self, *, limit: int) -> Sequence[Mapping[str, object]]:
        return ()


def _fields(response: Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers}


async def test_healthz_is_ok_even_when_the_gateway_is_not_ready() -> None:
    gateway = FakeGateway()
    gateway.problems = {"draining": True}
    response = await AdminApp(gateway).answer(get("/healthz"))
    assert (response.status, response.body) == (HTTPStatus.OK, b"ok\n")


async def test_readyz_follows_the_gateway_and_says_which_problem_it_has() -> None:
    gateway = FakeGateway()
    app = AdminApp(gateway)
    ready = await app.answer(get("/readyz"))
    assert (ready.status, json.loads(ready.body)) == (HTTPStatus.OK, {"ready": True})

    gateway.problems = {"draining": True, "routes_without_backend": ["chat", "vnc"]}
    unready = await app.answer(get("/readyz"))
    assert unready.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert json.loads(unready.body) == {"ready": False, "draining": True, "routes_without_backend": ["chat", "vnc"]}
    assert _fields(unready)["content-type"] == "application/json"


async def test_metrics_are_prometheus_text_with_what_was_counted() -> None:
    gateway = FakeGateway()
    gateway.metrics.route("chat").upstream.messages += 5
    response = await AdminApp(gateway).answer(get("/metrics"))
    assert response.status == HTTPStatus.OK
    assert _fields(response)["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.body.decode())}
    samples = {sample.labels["direction"]: sample.value for sample in families["kakitome_messages"].samples}
    assert samples == {"upstream": 5, "downstream": 0}


async def test_metrics_are_openmetrics_when_asked_for() -> None:
    response = await AdminApp(FakeGateway()).answer(
        get("/metrics", accept="application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    )
    assert _fields(response)["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert response.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("accepted", ["gzip", "deflate, GZIP;q=0.5", "gzip;q=1.0, identity"])
async def test_metrics_are_compressed_for_whoever_accepts_it(accepted: str) -> None:
    gateway = FakeGateway()
    for number in range(50):
        gateway.metrics.route(f"route-{number}")
    response = await AdminApp(gateway).answer(get("/metrics", accept_encoding=accepted))
    assert _fields(response)["content-encoding"] == "gzip"
    assert _fields(response)["vary"] == "Accept, Accept-Encoding"
    plain = gzip.decompress(response.body)
    assert b'kakitome_connections{route="route-49"} 0\n' in plain
    assert len(plain) > 128 * 1024
    assert len(response.body) < len(plain) / 5


@pytest.mark.parametrize("accepted", ["", "identity", "gzip;q=0", "gzip; q=0.0", "br, deflate"])
async def test_metrics_are_not_compressed_for_whoever_does_not_accept_it(accepted: str) -> None:
    response = await AdminApp(FakeGateway()).answer(get("/metrics", accept_encoding=accepted))
    assert "content-encoding" not in _fields(response)
    assert b"kakitome_build_info" in response.body


@pytest.mark.parametrize("target", ["/", "/metrics/", "/Metrics", "/sessions", "/sessions/a1", "/healthz/x"])
async def test_what_is_not_there_is_404_and_names_what_is(target: str) -> None:
    with pytest.raises(HandshakeRefused, match=r"there are /healthz, /readyz, /metrics$") as refused:
        await AdminApp(FakeGateway()).answer(get(target))
    assert refused.value.status == HTTPStatus.NOT_FOUND


async def test_the_sessions_api_is_there_with_a_directory() -> None:
    app = AdminApp(FakeGateway(), sessions=NoSessions())
    response = await app.answer(get("/sessions"))
    assert json.loads(response.body) == {"sessions": []}
    with pytest.raises(HandshakeRefused, match=r"/sessions$"):
        await app.answer(get("/"))


async def test_the_account_of_memory_is_there_where_there_is_one() -> None:
    app = AdminApp(FakeGateway(), memory=lambda: {"used_bytes": 1})
    response = await app.answer(get("/memory"))
    assert json.loads(response.body) == {"used_bytes": 1}
    with pytest.raises(HandshakeRefused, match=r"/memory$"):
        await app.answer(get("/"))


TOKEN = SecretStr("s3cret-書留")
SENT_TOKEN = "s3cret-書留".encode().decode("latin-1")


@pytest.mark.parametrize("target", ["/metrics", "/sessions", "/sessions/ended", "/sessions/a1", "/not-there"])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Basic {SENT_TOKEN}", SENT_TOKEN, f"Bearer {SENT_TOKEN}x", "Bearer \xff"],
)
async def test_without_the_token_nothing_is_told_not_even_what_there_is(target: str, authorization: str | None) -> None:
    app = AdminApp(FakeGateway(), token=TOKEN, sessions=NoSessions())
    headers = {} if authorization is None else {"authorization": authorization}
    with pytest.raises(HandshakeRefused) as refused:
        await app.answer(get(target, **headers))
    assert refused.value.status == HTTPStatus.UNAUTHORIZED
    assert dict(refused.value.headers) == {"WWW-Authenticate": 'Bearer realm="kakitome"'}
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_everything(scheme: str) -> None:
    app = AdminApp(FakeGateway(), token=TOKEN, sessions=NoSessions())
    for target in ("/metrics", "/sessions", "/sessions/ended"):
        assert (await app.answer(get(target, authorization=f"{scheme} {SENT_TOKEN}"))).status == HTTPStatus.OK


async def test_probes_need_no_token() -> None:
    app = AdminApp(FakeGateway(), token=TOKEN)
    assert (await app.answer(get("/healthz"))).status == HTTPStatus.OK
    assert (await app.answer(get("/readyz"))).status == HTTPStatus.OK


@pytest.mark.parametrize("target", ["/healthz", "/readyz", "/metrics"])
async def test_no_answer_is_cached_or_used_by_a_page(target: str) -> None:
    fields = _fields(await AdminApp(FakeGateway()).answer(get(target)))
    assert fields["cache-control"] == "no-store"
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert fields["cross-origin-resource-policy"] == "same-origin"
    assert "date" in fields


async def test_without_a_token_a_page_whose_own_name_leads_here_reads_nothing() -> None:
    app = AdminApp(FakeGateway(), hosts=lambda host: host == "127.0.0.1:9090")
    with pytest.raises(HandshakeRefused, match=r"not to 'gateway\.test'") as caught:
        await app.answer(get("/metrics"))
    assert caught.value.status == HTTPStatus.FORBIDDEN
    for probe in ("/healthz", "/readyz"):
        assert (await app.answer(get(probe))).status == HTTPStatus.OK
    guarded = AdminApp(FakeGateway(), token=SecretStr("abc"), hosts=lambda host: False)
    assert (await guarded.answer(get("/metrics", authorization="Bearer abc"))).status == HTTPStatus.OK
    own = AdminApp(FakeGateway(), hosts=lambda host: host == "gateway.test")
    assert (await own.answer(get("/metrics"))).status == HTTPStatus.OK
