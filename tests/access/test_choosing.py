"""Choosing an endpoint: token files as websockify reads them, claims, and what is refused."""

import os
from http import HTTPStatus
from pathlib import Path

import pytest
import structlog
from structlog.typing import EventDict

from gateway.access.choosing import MAX_FILE_BYTES, EndpointChooser, TokenFile
from gateway.config.choice import EndpointFrom
from gateway.errors import HandshakeRefused
from gateway.policy.principal import AccessRefusal, Principal
from gateway.protocol.http import Request

ALLOW = [{"networks": ["10.0.0.0/8"], "ports": ["5900-5999"]}]


def request(query: str = "") -> Request:
    return Request.parse(method="GET", target=f"/websockify?{query}")


def by_file(path: Path) -> EndpointChooser:
    return EndpointChooser(EndpointFrom.model_validate({"file": path, "allow": ALLOW}), route="vnc")


def by_claim(*claim: str) -> EndpointChooser:
    return EndpointChooser(EndpointFrom.model_validate({"claim": claim, "allow": ALLOW}), route="vnc")


async def test_a_file_of_websockify_leads_each_token_to_its_endpoint_and_the_token_goes_no_further(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens"
    file.write_text("# consoles\n\nvm1: 10.0.0.1:5901\n  vm:2:   10.0.0.2:5902  \nvm3:\t[::ffff:10.0.0.3]:5903\n")
    chooser = by_file(file)
    for token, endpoint in (("vm1", "10.0.0.1:5901"), ("vm%3A2", "10.0.0.2:5902"), ("vm3", "10.0.0.3:5903")):
        choice = await chooser.choose(request(f"a=b&token={token}&c=d"), None)
        assert str(choice.destination) == endpoint
        assert choice.request.query == "a=b&c=d"
        assert choice.request.target == "/websockify?a=b&c=d"
    assert (await chooser.choose(request("t%6Fken=vm1"), None)).request.target == "/websockify"


async def test_tokens_come_and_go_while_it_runs_and_a_folder_has_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    tokens = TokenFile(folder)
    assert await tokens.find("vm1") is None
    (folder / "one").write_text("vm1: 10.0.0.1:5900\n")
    (folder / ".one.swp").write_text("vm9: 10.0.0.9:5900\n")
    assert await tokens.find("vm1") == "10.0.0.1:5900"
    (folder / "two").write_text("vm2: 10.0.0.2:5900\n")
    (folder / "one").unlink()
    assert await tokens.find("vm1") is None
    assert await tokens.find("vm2") == "10.0.0.2:5900"
    assert await tokens.find("vm9") is None
    replacement = tmp_path / "new"
    replacement.write_text("vm2: 10.0.0.3:5900\n")  # of the same size
    os.replace(replacement, folder / "two")
    assert await tokens.find("vm2") == "10.0.0.3:5900"


async def test_a_line_that_is_none_is_told_by_its_number_and_the_others_hold(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(b"secret-token 10.0.0.1:5900\nvm2: 10.0.0.2:5900\n\xff\xfe: x y\n")
    with structlog.testing.capture_logs() as logs:
        assert await TokenFile(file).find("vm2") == "10.0.0.2:5900"
    assert [(entry["event"], entry["lines"]) for entry in logs] == [("endpoints_unreadable", [1, 3])]
    assert "secret-token" not in str(logs)


async def refused(chooser: EndpointChooser, query: str = "", principal: Principal | None = None) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        await chooser.choose(request(query), principal)
    return caught.value


async def test_nobody_is_led_to_where_no_token_leads(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("vm1: 10.0.0.1:5900\nout: 192.168.0.1:5900\nlocal: localhost:5900\nport: 10.0.0.1:22\n")
    chooser = by_file(file)
    for query in ("", "token=", "token=vm2", "token=out", "token=local", "token=port", "Token=vm1", "token=vm1%00"):
        refusal = await refused(chooser, query)
        assert (refusal.status, refusal.reason) == (HTTPStatus.FORBIDDEN, AccessRefusal.ENDPOINT), query
        assert "192.168" not in str(refusal)
    assert (await refused(chooser, "token=vm1&token=out")).status == HTTPStatus.BAD_REQUEST
    file.unlink()
    assert (await refused(chooser, "token=vm1")).status == HTTPStatus.SERVICE_UNAVAILABLE


async def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    with file.open("wb") as opened:
        opened.truncate(MAX_FILE_BYTES + 1)
    assert (await refused(by_file(file), "token=vm1")).status == HTTPStatus.SERVICE_UNAVAILABLE


def principal(**claims: object) -> Principal:
    return Principal(subject="alice", method="jwt", claims=claims)  # type: ignore[arg-type]


async def test_a_claim_names_the_endpoint() -> None:
    choice = await by_claim("vnc", "at").choose(request("token=stays"), principal(vnc={"at": "10.0.0.1:5900"}))
    assert str(choice.destination) == "10.0.0.1:5900"
    assert choice.request.query == "token=stays"


@pytest.mark.parametrize(
    "at", [None, 5900, ["10.0.0.1:5900"], {"host": "10.0.0.1"}, True, "", "10.0.0.1", "1.1.1.1:5900"]
)
async def test_a_claim_that_names_none_leads_nowhere(at: object) -> None:
    refusal = await refused(by_claim("at"), "", principal(at=at))
    assert (refusal.status, refusal.reason) == (HTTPStatus.FORBIDDEN, AccessRefusal.ENDPOINT)


async def test_who_comes_as_nobody_is_led_nowhere_by_a_claim() -> None:
    logs: list[EventDict]
    with structlog.testing.capture_logs() as logs:
        assert (await refused(by_claim("at"))).status == HTTPStatus.FORBIDDEN
    assert logs[0]["problem"] == 'there is no claim "at"'
