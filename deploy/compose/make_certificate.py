"""Makes the certificate of docker-compose.yml's wss listener, unless the folder has one that is good for a month.

    python make_certificate.py FOLDER [NAME]...

writes `tls.crt` and `tls.key` for the NAMEs (host names and IP addresses; localhost by default), and `ca.crt`, the
authority that signed it and whose key nobody keeps: a browser or a test may trust that file and nothing else by it.
"""

import ipaddress
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCALHOST: Final = ("localhost", "127.0.0.1", "::1", "gateway")
LIFETIME: Final = timedelta(days=397)
"""Browsers refuse certificates that are good for longer."""
RENEW_BEFORE: Final = timedelta(days=30)


def main(folder: Path, names: tuple[str, ...]) -> None:
    """Leaves a good certificate in `folder`. Raises OSError where it cannot be written."""
    now = datetime.now(UTC)
    if _is_good(folder, now):
        sys.stdout.write(f"{folder / 'tls.crt'} is good for another month at least\n")
        return
    for name, content in _issue(names, now).items():
        _replace(folder / name, content)
    sys.stdout.write(f"{folder / 'tls.crt'} is made, for {', '.join(names)}\n")


def _is_good(folder: Path, now: datetime) -> bool:
    if not all((folder / name).exists() for name in ("ca.crt", "tls.key", "tls.crt")):
        return False
    certificate = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
    return certificate.not_valid_after_utc - now > RENEW_BEFORE


def _issue(names: tuple[str, ...], now: datetime) -> dict[str, bytes]:
    """The files by name, in the order in which they are written: the certificate last, for its presence says "done"."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Kakitome's own authority")])
    authority_usage = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))  # clocks differ
            .not_valid_after(now + LIFETIME - timedelta(hours=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_usage), critical=False
            )
        )

    authority = (
        builder(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return {
        "ca.crt": authority.public_bytes(Encoding.PEM),
        "tls.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "tls.crt": certificate.public_bytes(Encoding.PEM),
    }


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _replace(path: Path, content: bytes) -> None:
    """Writes at once or not at all: the gateway may be reading. Only the owner may read it, the gateway's own user."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER [NAME]...")
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or LOCALHOST)
