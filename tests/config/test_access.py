"""Authentication as it is written: what no value may be."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import Config
from gateway.config.fields import Source

BACKEND = {"endpoints": ["tcp://127.0.0.1:9000"]}
URL_ISSUER = {"issuer": "https://login.example.com", "discovery": True}


def config_with(
    authentication: dict[str, Any], *, listener: dict[str, Any] | None = None, folder: Path | None = None, **route: Any
) -> Config:
    whole = {
        "listeners": [{"bind": "127.0.0.1:8080"} | (listener or {})],
        "routes": [{"name": "chat", "authentication": authentication} | (route or {"backend": BACKEND})],
    }
    return Config.model_validate(whole, context=None if folder is None else Source(folder=folder))


def jwt(*issuers: dict[str, Any], algorithms: tuple[str, ...] = ("ES256",)) -> dict[str, Any]:
    return {"methods": [{"jwt": {"issuers": list(issuers), "audiences": ["k"], "algorithms": list(algorithms)}}]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"algorithms": ["none"]}, "Input should be 'ES256'"),
        ({"algorithms": []}, "at least 1 item"),
        ({"audiences": []}, "at least 1 item"),
        ({"issuers": []}, "at least 1 item"),
        ({"leeway": "-1s"}, "is not a duration"),
        ({"subject": []}, "must be a claim's name"),
        ({"issuers": [{"issuer": "a", "keys_url": "ftp://a/keys"}]}, "is no URL such as"),
        ({"issuers": [{"issuer": "a", "keys_url": "https://user@a/keys"}]}, "is no URL such as"),
        ({"issuers": [{"issuer": "a", "keys_url": "https://a/keys#x"}]}, "is no URL such as"),
    ],
)
def test_values_that_cannot_be(changes: dict[str, Any], problem: str) -> None:
    authentication = jwt(URL_ISSUER)
    authentication["methods"][0]["jwt"] |= changes
    with pytest.raises(ValidationError, match=problem):
        config_with(authentication)


def test_a_leeway_may_be_none() -> None:
    authentication = jwt(URL_ISSUER)
    authentication["methods"][0]["jwt"]["leeway"] = "0s"
    method = config_with(authentication).routes[0].authentication
    assert method is not None
    assert method.methods[0].jwt is not None
    assert method.methods[0].jwt.leeway == 0
