"""The files that a configuration names: there, readable, and fit for their purpose.

Invariant: certificates are judged by loading them as TLS will, so that what passes here does not fail at start-up.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

from gateway.config.accounts import group_id, user_id
from gateway.config.document import Finding, KeyPath
from gateway.config.model import Admin, Config, Listener

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_PRIVATE_KEY: Final = b"PRIVATE KEY-----"


class _KeyEncryptedError(Exception):
    """OpenSSL asked for a passphrase."""


def find_file_faults(config: Config) -> Iterator[Finding]:
    """Every named file, folder, user or group that cannot serve its purpose."""
    if config.admin is not None:
        yield from _account_faults(config.admin, ("admin",))
    for index, listener in enumerate(config.listeners):
        yield from _account_faults(listener, ("listeners", index))
        path: KeyPath = ("listeners", index, "tls")
        if listener.tls is not None:
            yield from _pair_faults(listener.tls.certificate, listener.tls.key, path)
            yield from _authority_faults(listener.tls.client_ca, (*path, "client_ca"))
            for number, pair in enumerate(listener.tls.certificates):
                yield from _pair_faults(pair.certificate, pair.key, (*path, "certificates", number))
    for index, route in enumerate(config.routes):
        path = ("routes", index)
        if route.files is not None and not route.files.is_dir():
            yield Finding(path=(*path, "files"), message=f"{route.files} is not a folder")
        if route.backend is not None and route.backend.tls is not None:
            tls = route.backend.tls
            yield from _pair_faults(tls.certificate, tls.key, (*path, "backend", "tls"))
            yield from _authority_faults(tls.ca, (*path, "backend", "tls", "ca"))


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


def _content_fault(file: Path, mark: bytes, content: str) -> str | None:
    """Why `file` cannot hold what it should; OpenSSL's own words for it are "PEM lib"."""
    try:
        text = file.read_bytes()
    except OSError as error:
        return f"cannot read {file}: {error.strerror}"
    return None if mark in text else f"{file} holds no {content}"


def _refuse_passphrase() -> NoReturn:
    """Called for an encrypted key only; without it OpenSSL would ask on the terminal."""
    raise _KeyEncryptedError
