"""Endpoints that may be chosen, as they are written: what no entry may be."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import Config
from gateway.config.checks import find_disagreements
from gateway.config.loading import dotted

ALLOW = [{"networks": ["10.0.0.0/8"], "ports": ["5900-5999"]}]


def choice_findings(*, authentication: Any = None, **backend: Any) -> list[str]:
    route = {"name": "vnc", "backend": backend} | ({"authentication": authentication} if authentication else {})
    config = Config.model_validate({"listeners": [{"bind": "127.0.0.1:8080"}], "routes": [route]})
    return [
        f"{dotted(finding.path).removeprefix('routes[0].backend')}: {finding.message}"
        for finding in find_disagreements(config)
    ]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"hosts": ["10.0.0.1"]}, "addresses stand in networks"),
        ({"hosts": ["vm.example.com:5900"]}, "has a port"),
        ({"hosts": ["*"]}, "letters, digits and hyphens"),
        ({"networks": ["10.0.0.1/8"]}, "is not a network"),
        ({"networks": ["unix"]}, "is not a network"),
        ({"ports": ["5900-"]}, "must be a port such as 5900, or a range"),
        ({"ports": ["6000-5900"]}, "is no range of ports"),
        ({"ports": [0]}, "is no range of ports"),
        ({"ports": []}, "at least 1"),
    ],
)
def test_what_cannot_be_allowed(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        choice_findings(endpoint_from={"file": "tokens", "allow": [ALLOW[0] | entry]})
