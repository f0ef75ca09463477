"""No secret has to stand in values or in a ConfigMap, whichever key it is for, and none that does is let through.

The keys are those that the gateway's own schema calls secrets: one that is added there is tried here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import helm_python
import pytest
import yaml

from gateway.config import load_with_files
from gateway.config.schema import schema
from tests.helm.chart import render

SECRET: Final = "kakitome-auth"
FOLDER: Final = f"/run/secrets/kakitome/named/{SECRET}"
OPEN: Final = "written-out-and-at-least-thirty-two-bytes"

Path_ = tuple[str | int, ...]

ISSUER: Final = {"issuer": "https://login.example.com", "secrets": [f"file:{FOLDER}/jwt"]}

VALUES: Final[dict[str, Any]] = {
    "secrets": [SECRET],
    "tls": {
        "enabled": True,
        "existingSecret": "web-tls",
        "clientCa": {"existingSecret": "clients", "revocationKey": "ca.crl"},
    },
    "config": {
        "admin": {
            "bind": "0.0.0.0:9090",
            "token": f"file:{FOLDER}/scraper",
            "tokens": [{"name": "ops", "token": f"file:{FOLDER}/ops", "scopes": ["act"]}],
        },
        "routes": [
            {
                "name": "chat",
                "match": {"path": "/chat"},
                "authentication": {
                    "methods": [
                        {"jwt": {"issuers": [ISSUER], "audiences": ["chat"], "algorithms": ["HS256"]}},
                        {
                            "introspection": {
                                "url": "https://login.example.com/introspect",
                                "client_id": "chat",
                                "client_secret": f"file:{FOLDER}/client",
                            }
                        },
                        {"ticket": {"secrets": [f"file:{FOLDER}/ticket"]}},
                        {
                            "token": {
                                "tokens": [
                                    {"subject": "ci", "token": f"file:{FOLDER}/ci", "claims": {"token": "no secret"}}
                                ]
                            }
                        },
                    ]
                },
                "backend": {
                    "endpoints": ["tls://chat:9000"],
                    "tls": {"certificate": f"{FOLDER}/backend.crt", "key": f"{FOLDER}/backend.key"},
                },
            },
            {
                "name": "console",
                "match": {"path": "/console"},
                "backend": {
                    "endpoint_from": {
                        "file": f"{FOLDER}/consoles",
                        "allow": [{"hosts": ["*.vm.internal"], "ports": [5900]}],
                    }
                },
            },
        ],
    },
    "routes": {
        "logout": {
            "match": {"path": "/logout"},
            "logout": {"issuers": [ISSUER], "audiences": ["chat"], "algorithms": ["HS256"]},
        }
    },
}


def secret_keys(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all secrets in the gateway's schema; `[]` stands for an element of a list."""
    if node.get("title") == "secret":
        yield path
    for alternative in node.get("anyOf", ()):
        yield from secret_keys(alternative, path)
    for name, child in node.get("properties", {}).items():
        yield from secret_keys(child, (*path, name))
    if isinstance(node.get("items"), dict):
        yield from secret_keys(node["items"], (*path, "[]"))


def placed(value: Any, path: tuple[str, ...] = (), at: Path_ = ()) -> Iterator[tuple[tuple[str, ...], Path_]]:
    """Every text of `VALUES`' configuration: its path as in `secret_keys`, and where it stands."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from placed(child, (*path, key), (*at, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from placed(child, (*path, "[]"), (*at, index))
    else:
        yield path, at


SECRETS: Final = set(secret_keys(schema()))
IN_CONFIG: Final = [(path, ("config", *at)) for path, at in placed(VALUES["config"]) if path in SECRETS]
IN_ROUTES: Final = [
    (("routes", "[]", *path[1:]), ("routes", *at))
    for path, at in placed(VALUES["routes"])
    if ("routes", "[]", *path[1:]) in SECRETS
]
PLACES: Final = [*IN_CONFIG, *IN_ROUTES]


def changed(at: Path_, value: str) -> dict[str, Any]:
    copy: Any = json.loads(json.dumps(VALUES))
    holder = copy
    for step in at[:-1]:
        holder = holder[step]
    holder[at[-1]] = value
    return dict(copy)


def test_every_secret_that_there_is_has_a_place_here() -> None:
    assert {path for path, _ in PLACES} == SECRETS


def test_all_of_them_by_reference(tmp_path: Path) -> None:
    release = render(VALUES)
    config = yaml.safe_load(release.config_text)
    listener = config["listeners"][-1]["tls"]
    assert listener["client_ca"] == "/run/secrets/kakitome/client-ca/ca.crt"
    assert listener["client_crl"] == "/run/secrets/kakitome/client-ca/ca.crl"
    path = tmp_path / "kakitome.yaml"
    path.write_text(release.config_text)
    load_with_files(path, read_files=False)
    mounts = {mount["name"]: mount for mount in release.gateway["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in release.pod["volumes"]}
    [name] = [name for name, mount in mounts.items() if mount["mountPath"] == FOLDER]
    assert mounts[name]["readOnly"]
    assert "subPath" not in mounts[name]  # such a one would not follow a change
    assert volumes[name]["secret"] == {"secretName": SECRET, "defaultMode": 0o440}


@pytest.mark.parametrize("at", [at for _, at in PLACES], ids=lambda at: ".".join(map(str, at)))
def test_one_that_is_written_out_is_refused_and_not_repeated(at: Path_) -> None:
    with pytest.raises(helm_python.HelmError) as caught:
        render(changed(at, OPEN))
    assert "would stand in a ConfigMap" in str(caught.value)
    assert OPEN not in str(caught.value)


@pytest.mark.parametrize("at", [at for _, at in PLACES], ids=lambda at: ".".join(map(str, at)))
def test_one_of_the_environment_is_a_reference_too(at: Path_) -> None:
    assert "${CHAT_SECRET}" in render(changed(at, "${CHAT_SECRET}")).config_text


def test_a_secret_that_is_named_and_not_mounted_is_told() -> None:
    with pytest.raises(helm_python.HelmError, match="Secret other, which is not mounted"):
        render(changed(PLACES[0][1], "file:/run/secrets/kakitome/named/other/key"))
