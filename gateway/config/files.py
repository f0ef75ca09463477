"""The files that a configuration names: there, readable, and fit for their purpose.

Invariant: certificates are judged by loading them as TLS will, so that what passes here does not fail at start-up.
"""

import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from gateway.config.access import Authentication, Issuer
from gateway.config.accounts import group_id, user_id
from gateway.config.addresses import TcpAddress
from gateway.config.document import Finding, KeyPath
from gateway.config.model import Admin, Config, Listener
from gateway.policy.key_sets import parse_key_file

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_REVOCATION_LIST: Final = b"-----BEGIN X509 CRL-----"
_PRIVATE_KEY: Final = b"PRIVATE KEY-----"

_OTHER_FORMATS: Final = (
    (
        b"-----BEGIN OPENSSH PRIVATE KEY-----",
        "a key in OpenSSH's own format, which TLS does not read: ssh-keygen -p -m PKCS8 -f FILE writes it in PEM",
    ),
    (b"PuTTY-User-Key-File", "a key in PuTTY's format, which TLS does not read; PuTTYgen exports it as an OpenSSL key"),
    (b"ssh-", "a public key of SSH"),
    (b"-----BEGIN PUBLIC KEY-----", "a public key"),
    (b"-----BEGIN CERTIFICATE REQUEST-----", "a request for a certificate, which an authority has yet to sign"),
    (b"-----BEGIN PKCS7-----", "certificates in PKCS #7: openssl pkcs7 -print_certs -in FILE writes them in PEM"),
    (b"\x30\x82", "in DER or PKCS #12, both binary: openssl x509, pkey or pkcs12 write it in PEM"),
)
"""How a file begins that is something else than it should be, and what that is."""


class _KeyEncryptedError(Exception):
    """OpenSSL asked for a passphrase."""


def find_file_faults(config: Config) -> Iterator[Finding]:
    """Every named file, folder, user, group or host to listen at that cannot serve its purpose."""
    if config.admin is not None:
        yield from _host_faults(config.admin, ("admin",))
        yield from _account_faults(config.admin, ("admin",))
    for index, listener in enumerate(config.listeners):
        yield from _host_faults(listener, ("listeners", index))
        yield from _account_faults(listener, ("listeners", index))
        path: KeyPath = ("listeners", index, "tls")
        if listener.tls is not None:
            yield from _pair_faults(listener.tls.certificate, listener.tls.key, path)
            yield from _authority_faults(listener.tls.client_ca, (*path, "client_ca"))
            yield from _revocation_faults(listener.tls.client_crl, (*path, "client_crl"))
            for number, pair in enumerate(listener.tls.certificates):
                yield from _pair_faults(pair.certificate, pair.key, (*path, "certificates", number))
    for index, route in enumerate(config.routes):
        path = ("routes", index)
        if route.files is not None and not route.files.is_dir():
            yield Finding(path=(*path, "files"), message=f"{route.files} is not a folder")
        if route.authentication is not None:
            yield from _key_file_faults(route.authentication, (*path, "authentication"))
        if route.logout is not None:
            yield from _issuer_faults(route.logout.issuers, (*path, "logout", "issuers"))
        choice = None if route.backend is None else route.backend.endpoint_from
        if choice is not None and choice.file is not None and not choice.file.exists():
            message = f"{choice.file} is neither a file nor a folder"
            yield Finding(path=(*path, "backend", "endpoint_from", "file"), message=message)
        if route.backend is not None and route.backend.tls is not None:
            tls = route.backend.tls
            yield from _pair_faults(tls.certificate, tls.key, (*path, "backend", "tls"))
            yield from _authority_faults(tls.ca, (*path, "backend", "tls", "ca"))


def _host_faults(bound: Listener | Admin, path: KeyPath) -> Iterator[Finding]:
    """Only names to listen at: those of backends may be known later, or elsewhere."""
    if isinstance(bound.bind, TcpAddress):
        try:
            socket.getaddrinfo(bound.bind.host, bound.bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as fault:
            message = f"{bound.bind.host} is no name of an address here ({fault.strerror}); write an address"
            yield Finding(path=(*path, "bind"), message=message)


def _account_faults(bound: Listener | Admin, path: KeyPath) -> Iterator[Finding]:
    for key, text, look_up in (("owner", bound.owner, user_id), ("group", bound.group, group_id)):
        try:
            if text is not None:
                look_up(text)
        except ValueError as fault:
            yield Finding(path=(*path, key), message=str(fault))


def _pair_faults(certificate: Path | None, key: Path | None, path: KeyPath) -> Iterator[Finding]:
    readable = True
    for name, file, mark, content in (
        ("certificate", certificate, _CERTIFICATE, "PEM certificate"),
        ("key", key, _PRIVATE_KEY, "PEM private key"),
    ):
        fault = _content_fault(file, mark, content) if file is not None else None
        if fault is not None:
            readable = False
            yield Finding(path=(*path, name), message=fault)
    if not readable or certificate is None or key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_refuse_passphrase)
    except _KeyEncryptedError:
        message = f"{key} is encrypted; a gateway that starts by itself needs a key without a passphrase"
        yield Finding(path=(*path, "key"), message=message)
    except ssl.SSLError as fault:
        if fault.reason == "KEY_VALUES_MISMATCH":
            yield Finding(path=(*path, "key"), message=f"{key} is not the key of {certificate}")
        else:
            # OpenSSL does not say which of the two files it could not use.
            message = f"cannot load {certificate} with {key}: {fault.reason or fault}"
            yield Finding(path=(*path, "certificate"), message=message)


def _authority_faults(file: Path | None, path: KeyPath) -> Iterator[Finding]:
    if file is None:
        return
    fault = _content_fault(file, _CERTIFICATE, "PEM certificate")
    if fault is None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except ssl.SSLError as error:
            fault = f"cannot load {file}: {error.reason or error}"
    if fault is not None:
        yield Finding(path=path, message=fault)


def _revocation_faults(file: Path | None, path: KeyPath) -> Iterator[Finding]:
    if file is None:
        return
    fault = _content_fault(file, _REVOCATION_LIST, "PEM revocation list")
    if fault is None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except ssl.SSLError as error:
            fault = f"cannot load {file}: {error.reason or error}"
    if fault is not None:
        yield Finding(path=path, message=fault)


def _key_file_faults(authentication: Authentication, path: KeyPath) -> Iterator[Finding]:
    for index, method in enumerate(authentication.methods):
        if method.jwt is not None:
            yield from _issuer_faults(method.jwt.issuers, (*path, "methods", index, "jwt", "issuers"))


def _issuer_faults(issuers: Sequence[Issuer], path: KeyPath) -> Iterator[Finding]:
    for number, issuer in enumerate(issuers):
        if issuer.keys is None:
            continue
        fault: str | None = None
        try:
            parse_key_file(issuer.keys.read_bytes())
        except OSError as error:
            fault = f"cannot read {issuer.keys}: {error.strerror}"
        except ValueError as error:
            fault = f"{issuer.keys} {error}"
        if fault is not None:
            yield Finding(path=(*path, number, "keys"), message=fault)


def _content_fault(file: Path, mark: bytes, content: str) -> str | None:
    """Why `file` cannot hold what it should; OpenSSL's own words for it are "PEM lib"."""
    try:
        text = file.read_bytes()
    except OSError as error:
        return f"cannot read {file}: {error.strerror}"
    for begin, what in _OTHER_FORMATS:
        if text.lstrip().startswith(begin):
            return f"{file} is {what}".replace("FILE", str(file))
    if mark in text:
        return None
    if _CERTIFICATE in text or _PRIVATE_KEY in text:
        held = "PEM certificate" if _CERTIFICATE in text else "PEM private key"
        return f"{file} holds no {content}, but a {held}"
    return f"{file} holds no {content}"


def _refuse_passphrase() -> NoReturn:
    """Called for an encrypted key only; without it OpenSSL would ask on the terminal."""
    raise _KeyEncryptedError
