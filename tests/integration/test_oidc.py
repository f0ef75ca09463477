"""The whole way of an application at an OpenID provider: log in there, connect with its token, and log out there."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import oidc
from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.oidc import AUDIENCE, CLIENT_ID, Provider, log_in, post
from tests.support.peers.raw_client import RawClient

TEXT = 1
CLOSED_UNAUTHORIZED = 3000


def configuration(issuer: str, backend: int, **rest: Any) -> dict[str, Any]:
    known = {"issuers": [{"issuer": issuer, "discovery": True}], "algorithms": ["ES256"], "leeway": 0}
    jwt_method = {**known, "audiences": [AUDIENCE], "types": ["at+jwt"]}
    chat = route("chat", "/", f"tcp://127.0.0.1:{backend}", authentication={"methods": [{"jwt": jwt_method}]})
    logout = {"name": "logout", "match": {"path": "/logout"}, "logout": {**known, "audiences": [CLIENT_ID]}}
    return {"routes": [chat, logout], **rest}


@contextmanager
def scene(**rest: Any) -> Iterator[tuple[Provider, GatewayProcess]]:
    with ExitStack() as stack:
        provider = stack.enter_context(oidc.provider())
        backend = stack.enter_context(tcp_echo())
        yield provider, stack.enter_context(GatewayProcess(configuration(provider.issuer, backend, **rest)))


def connect(gateway: GatewayProcess, token: str) -> RawClient:
    return RawClient(gateway.url(), headers={"Authorization": f"Bearer {token}"})


def refusal(gateway: GatewayProcess, token: str) -> str:
    with pytest.raises(ConnectionError) as caught:
        connect(gateway, token)
    return str(caught.value)


def works(client: RawClient) -> bool:
    client.send(TEXT, b"hello")
    return client.receive_message() == b"hello"


def close_code(client: RawClient) -> int:
    """Of the Close that comes next."""
    while (frame := client.receive()).opcode != 8:
        if frame.opcode == 9:
            client.send(10, frame.payload)
    return int.from_bytes(frame.payload[:2], "big")


def test_from_login_to_logout(tmp_path: Path) -> None:
    with scene(state=str(tmp_path / "state.db")) as (provider, gateway):
        alice, phone, bob = (log_in(provider.issuer, user) for user in ("alice", "alice", "bob"))
        url = gateway.http_url("/logout")
        with (
            connect(gateway, alice.access_token) as desk,
            connect(gateway, phone.access_token) as elsewhere,
            connect(gateway, bob.access_token) as other,
        ):
            assert works(desk)
            assert works(elsewhere)
            assert works(other)
            assert "401" in refusal(gateway, alice.id_token)
            assert provider.log_out(url, alice.session) == 200
            assert close_code(desk) == CLOSED_UNAUTHORIZED
            assert works(elsewhere)
            assert works(other)
        assert "401" in refusal(gateway, alice.access_token)
        token = provider.logout_token(subject="bob")
        assert post(url, {"logout_token": token})[0] == 200

        gateway.kill()
        gateway.restart()
        assert "401" in refusal(gateway, alice.access_token)
        assert "401" in refusal(gateway, bob.access_token)
        assert post(gateway.http_url("/logout"), {"logout_token": token})[0] == 400
        with connect(gateway, phone.access_token) as elsewhere:
            assert works(elsewhere)
        assert gateway.metrics().value("kakitome_logouts_total", outcome="replayed") == 1


def test_keys_that_rotate_and_keys_that_are_replaced() -> None:
    with scene() as (provider, gateway):
        before = log_in(provider.issuer, "alice")
        with connect(gateway, before.access_token) as living:
            provider.rotate()
            with connect(gateway, log_in(provider.issuer, "alice").access_token) as newcomer:
                assert works(newcomer)
            provider.replace_keys()
            # The gateway has fetched a moment ago: it cannot know of such a key, and says neither yes nor no.
            assert "503" in refusal(gateway, log_in(provider.issuer, "alice").access_token)
            status, body = post(gateway.http_url("/logout"), {"logout_token": provider.logout_token(before.session)})
            assert (status, json.loads(body)["error"]) == (400, "temporarily_unavailable")
            assert works(living)
        assert provider.key_fetches == 1


def test_a_provider_that_is_away_ends_nobody() -> None:
    with ExitStack() as stack:
        backend = stack.enter_context(tcp_echo())
        with oidc.provider() as provider:
            gateway = stack.enter_context(GatewayProcess(configuration(provider.issuer, backend)))
            alice = log_in(provider.issuer, "alice")
            living = stack.enter_context(connect(gateway, alice.access_token))
            assert works(living)
            late = provider.logout_token(alice.session, subject="alice")
        assert works(living)
        with connect(gateway, alice.access_token) as newcomer:  # its keys are at hand
            assert works(newcomer)
        # What the provider said last still arrives, and is judged by the same keys.
        assert post(gateway.http_url("/logout"), {"logout_token": late})[0] == 200
        assert close_code(living) == CLOSED_UNAUTHORIZED


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def by_public_key(header: object, claims: str, public: bytes) -> str:
    """Signed with what everybody has, as if it were a shared secret; joserfc would not."""
    signed = f"{part(header)}.{claims}"
    signature = hmac.digest(public, signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def test_forged_logouts_end_nobody_and_ask_nobody() -> None:
    with scene() as (provider, gateway):
        alice = log_in(provider.issuer, "alice")
        good = provider.logout_token(alice.session, subject="alice")
        header, claims, signature = good.split(".")
        named = json.loads(base64.urlsafe_b64decode(header + "=="))
        body = json.loads(base64.urlsafe_b64decode(claims + "=="))
        forged = [
            f"{part({'alg': 'none'})}.{claims}.",
            f"{part({**named, 'alg': 'none'})}.{claims}.{signature}",
            by_public_key({**named, "alg": "HS256"}, claims, provider.keys.current.as_pem(private=False)),
            f"{part({**named, 'kid': '../../keys'})}.{claims}.{signature}",
            f"{part({**named, 'jku': 'https://evil.example/keys'})}.{claims}.{signature}",
            f"{part({**named, 'crit': ['exp'], 'exp': 1})}.{claims}.{signature}",
            f"{header}.{part({**body, 'sub': 'bob'})}.{signature}",
            f"{header}.{part({**body, 'iss': 'https://evil.example'})}.{signature}",
            f"{header}.{claims}.",
            provider.sign({**body, "aud": "another"}, typ="logout+jwt"),
            provider.sign({**body, "nonce": "n"}, typ="logout+jwt"),
            provider.sign({name: body[name] for name in body if name not in ("sub", "sid")}, typ="logout+jwt"),
            alice.access_token,
            alice.id_token,
        ]
        url = gateway.http_url("/logout")
        with connect(gateway, alice.access_token) as living:
            # Key IDs that nobody has, in a flood: the one fetch in 30 seconds was the first.
            forged += [f"{part({**named, 'kid': f'unknown-{index}'})}.{claims}.{signature}" for index in range(50)]
            for token in forged:
                assert post(url, {"logout_token": token})[0] == 400, token
            assert works(living)
            assert provider.key_fetches == 1
            assert post(url, {"logout_token": good})[0] == 200
            assert close_code(living) == CLOSED_UNAUTHORIZED
        said = json.dumps(gateway.events)
        assert '"logout_refused"' in said
        assert signature not in said
        assert alice.access_token.rsplit(".", 1)[1] not in said
