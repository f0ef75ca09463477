"""deploy/compose/make_certificate.py: what it makes passes for its names under strict rules, and is kept while good."""

import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.tools import REPOSITORY

SCRIPT = REPOSITORY / "deploy/compose/make_certificate.py"
FILES = ("ca.crt", "tls.crt", "tls.key")


def run(folder: Path, *names: str) -> str:
    command = [sys.executable, str(SCRIPT), str(folder), *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def shake_hands(folder: Path, name: str) -> None:
    """A TLS handshake in memory: a client that trusts the authority alone asks for `name`."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    client_context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(downward, upward, server_hostname=name)
    server = server_context.wrap_bio(upward, downward, server_side=True)
    waiting = [client, server]
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)


def test_clients_that_trust_the_authority_reach_localhost(tmp_path: Path) -> None:
    assert "is made, for localhost" in run(tmp_path)
    for name in ("localhost", "127.0.0.1", "::1"):
        shake_hands(tmp_path, name)


def test_other_names_are_refused_by_clients(tmp_path: Path) -> None:
    run(tmp_path, "chat.example.com")
    shake_hands(tmp_path, "chat.example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
        shake_hands(tmp_path, "localhost")


def test_only_the_owner_may_read_what_it_writes_and_nothing_else_stays(tmp_path: Path) -> None:
    run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_good_certificate_is_kept(tmp_path: Path) -> None:
    run(tmp_path)
    before = contents(tmp_path)
    assert "is good for another month" in run(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("missing", FILES)
def test_a_set_that_is_not_whole_is_made_anew(tmp_path: Path, missing: str) -> None:
    run(tmp_path)
    before = contents(tmp_path)
    (tmp_path / missing).unlink()
    run(tmp_path)
    assert all(before[name] != content for name, content in contents(tmp_path).items())
    shake_hands(tmp_path, "localhost")


def test_one_that_expires_within_a_month_is_made_anew(tmp_path: Path) -> None:
    run(tmp_path)
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=29))
    (tmp_path / "tls.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    assert "is made, for localhost" in run(tmp_path)
    shake_hands(tmp_path, "localhost")


def test_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run(tmp_path / "missing")
