"""Named files: certificates that load, keys that belong to them, folders that are there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.config import Config
from gateway.config.fields import Source
from gateway.config.files import find_file_faults
from gateway.config.loading import dotted

AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Certificates `a` and `b` with their keys, their authority, and files that are no use."""
    for name in ("a", "b"):
        leaf = AUTHORITY.issue_cert(f"{name}.example", key_type=trustme.KeyType.ECDSA)
        (tmp_path / f"{name}.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        (tmp_path / f"{name}.key").write_bytes(leaf.private_key_pem.bytes())
    key = load_pem_private_key((tmp_path / "a.key").read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "encrypted.key").write_bytes(encrypted)
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.cert_pem.bytes())
    (tmp_path / "empty").touch()
    (tmp_path / "torn.crt").write_bytes((tmp_path / "a.crt").read_bytes()[:200])
    (tmp_path / "torn.key").write_bytes((tmp_path / "a.key").read_bytes()[:80])
    return tmp_path


def faults_of(folder: Path, listener_tls: dict[str, Any] | None = None, **route: Any) -> list[str]:
    config = Config.model_validate(
        {
            "listeners": [{"bind": "127.0.0.1:0", "tls": listener_tls}],
            "routes": [{"name": "chat"} | (route or {"files": "."})],
        },
        context=Source(folder=folder),
    )
    return [
        f"{dotted(finding.path)}: {finding.message}".replace(f"{folder}/", "") for finding in find_file_faults(config)
    ]


def test_certificates_that_load_have_no_faults(folder: Path) -> None:
    tls = {
        "certificate": "a.crt",
        "key": "a.key",
        "certificates": [{"certificate": "b.crt", "key": "b.key"}],
        "client_ca": "ca.crt",
    }
    backend = {"endpoints": ["tls://b:1"], "tls": {"ca": "ca.crt", "certificate": "a.crt", "key": "a.key"}}
    assert faults_of(folder, tls, backend=backend) == []


PAIR_FAULTS = [
    (("none.crt", "a.key"), ["certificate: cannot read none.crt: No such file or directory"]),
    (("a.crt", "empty"), ["key: empty holds no PEM private key"]),
    (
        ("a.key", "a.crt"),
        [
            "certificate: a.key holds no PEM certificate, but a PEM private key",
            "key: a.crt holds no PEM private key, but a PEM certificate",
        ],
    ),
    (("a.crt", "b.key"), ["key: b.key is not the key of a.crt"]),
    (
        ("a.crt", "encrypted.key"),
        ["key: encrypted.key is encrypted; a gateway that starts by itself needs a key without a passphrase"],
    ),
]


def listener_default(pair: dict[str, str]) -> tuple[str, dict[str, Any] | None, dict[str, Any]]:
    return "listeners[0].tls.", pair, {"files": "."}


def listener_by_name(pair: dict[str, str]) -> tuple[str, dict[str, Any] | None, dict[str, Any]]:
    return "listeners[0].tls.certificates[0].", {"certificates": [pair]}, {"files": "."}


def backend_own(pair: dict[str, str]) -> tuple[str, dict[str, Any] | None, dict[str, Any]]:
    return "routes[0].backend.tls.", None, {"backend": {"endpoints": ["tls://b:1"], "tls": pair}}


@pytest.mark.parametrize("place", [listener_default, listener_by_name, backend_own])
@pytest.mark.parametrize(("names", "faults"), PAIR_FAULTS)
def test_a_pair_that_does_not_serve_says_which_file_and_why(
    folder: Path,
    place: Callable[[dict[str, str]], tuple[str, dict[str, Any] | None, dict[str, Any]]],
    names: tuple[str, str],
    faults: list[str],
) -> None:
    path, tls, route = place({"certificate": names[0], "key": names[1]})
    assert faults_of(folder, tls, **route) == [path + fault for fault in faults]


@pytest.mark.parametrize("names", [("torn.crt", "a.key"), ("a.crt", "torn.key")])
def test_a_torn_file_is_a_fault_of_the_pair(folder: Path, names: tuple[str, str]) -> None:
    faults = faults_of(folder, {"certificate": names[0], "key": names[1]})
    assert len(faults) == 1
    assert faults[0].startswith(f"listeners[0].tls.certificate: cannot load {names[0]} with {names[1]}: ")


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("none.crt", "cannot read none.crt: No such file or directory"),
        ("a.key", "a.key holds no PEM certificate"),
        ("torn.crt", "cannot load torn.crt: "),
    ],
)
def test_an_authority_that_does_not_load_is_a_fault(folder: Path, file: str, fault: str) -> None:
    pair = {"certificate": "a.crt", "key": "a.key"}
    backend = {"endpoints": ["tls://b:1"], "tls": {"ca": file}}
    of_listener, of_backend = faults_of(folder, pair | {"client_ca": file}, backend=backend)
    assert of_listener.startswith(f"listeners[0].tls.client_ca: {fault}")
    assert of_backend.startswith(f"routes[0].backend.tls.ca: {fault}")


def test_a_folder_to_serve_must_be_one(folder: Path) -> None:
    assert faults_of(folder, files="a.crt") == ["routes[0].files: a.crt is not a folder"]
    assert faults_of(folder, files="none") == ["routes[0].files: none is not a folder"]
    assert faults_of(folder, files=".") == []


def test_users_and_groups_are_looked_up(folder: Path) -> None:
    socket = {"bind": "unix:k.sock", "owner": "nobody-of-ours", "group": 0}
    config = Config.model_validate(
        {"listeners": [socket], "admin": {**socket, "group": "none-of-ours"}, "routes": [{"name": "a", "files": "."}]},
        context=Source(folder=folder),
    )
    assert [f"{dotted(finding.path)}: {finding.message}" for finding in find_file_faults(config)] == [
        'admin.owner: there is no user "nobody-of-ours" on this machine; write another name, or a number',
        'admin.group: there is no group "none-of-ours" on this machine; write another name, or a number',
        'listeners[0].owner: there is no user "nobody-of-ours" on this machine; write another name, or a number',
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n",
            "is a key in OpenSSH's own format, which TLS does not read",
        ),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", "is a key in PuTTY's format"),
        (b"ssh-ed25519 AAAA me@here\n", "is a public key of SSH"),
        (b"-----BEGIN PUBLIC KEY-----\n", "is a public key"),
        (b"\x30\x82\x01\x0a", "is in DER or PKCS #12, both binary"),
    ],
)
def test_a_key_in_another_format_is_named_as_such(folder: Path, content: bytes, told: str) -> None:
    (folder / "other.key").write_bytes(content)
    (fault,) = faults_of(folder, {"certificate": "a.crt", "key": "other.key"})
    assert fault.startswith(f"listeners[0].tls.key: other.key {told}")


def test_the_way_from_openssh_s_format_is_told_with_the_file(folder: Path) -> None:
    (folder / "ssh.key").write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (fault,) = faults_of(folder, {"certificate": "a.crt", "key": "ssh.key"})
    assert fault.endswith("ssh-keygen -p -m PKCS8 -f ssh.key writes it in PEM")


def test_certificate_and_key_that_are_exchanged_are_told(folder: Path) -> None:
    assert faults_of(folder, {"certificate": "a.key", "key": "a.crt"}) == [
        "listeners[0].tls.certificate: a.key holds no PEM certificate, but a PEM private key",
        "listeners[0].tls.key: a.crt holds no PEM private key, but a PEM certificate",
    ]


def test_a_name_to_listen_at_that_is_not_known_is_told(folder: Path) -> None:
    config = Config.model_validate(
        {
            "listeners": [{"bind": "gateway.invalid:80"}],
            "admin": {"bind": "localhost:0"},
            "routes": [{"name": "a", "files": "."}],
        },
        context=Source(folder=folder),
    )
    (fault,) = find_file_faults(config)
    assert dotted(fault.path) == "listeners[0].bind"
    assert fault.message.startswith("gateway.invalid is no name of an address here (")
