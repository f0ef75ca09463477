"""What routes share of those who are asked: keys outlive a reload, and are let go with their issuer."""

from typing import Any

import trio

from gateway.access.authorisers import Authorisers
from gateway.access.gatekeeper import Gatekeeper, Visitor
from gateway.access.state import open_state
from gateway.config.access import Authentication
from gateway.protocol.http import Headers, Request
from gateway.telemetry.metrics import RouteMetrics
from tests.access.doubles import EC, ISSUER, NOW, ScriptedAsker, claims, key_set, signed

JWT: dict[str, Any] = {
    "issuers": [{"issuer": ISSUER, "keys": "keys.json"}],
    "audiences": ["kakitome"],
    "algorithms": ["ES256"],
}


def bearer(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


async def test_issuers_that_stay_keep_their_keys_over_a_reload(nursery: trio.Nursery) -> None:
    asker = ScriptedAsker()
    asker.say("http://auth/keys", key_set(EC))
    authorisers = Authorisers(asker, open_state(None, now=NOW))
    authorisers.start(nursery)
    jwt = JWT | {"issuers": [{"issuer": ISSUER, "keys_url": "http://auth/keys"}]}
    headers: Headers = (bearer(signed(claims())),)
    visitor = Visitor(scheme="https", host="h", address=None, origin=None, certificate=None, is_page=True)
    config = Authentication.model_validate({"methods": [{"jwt": jwt}]})
    for _ in range(3):
        authorisers.begin()
        keeper = Gatekeeper(config, authorisers, RouteMetrics("chat"), unix_time=lambda: NOW)
        authorisers.settle()
        request = Request.parse(method="GET", target="/", headers=headers)
        assert (await keeper.admit(request, visitor, speaks_records=False)).principal is not None
    assert asker.asked("http://auth/keys") == 1
    authorisers.begin()
    authorisers.settle()
    assert authorisers._kept == {}
