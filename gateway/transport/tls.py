"""TLS on both hops: which certificate a listener shows to whom, and how backends are verified.

Invariant: a handshake is served by certificates that were loaded whole and belong together. A changed file takes
effect for later handshakes only, live connections keep what they shook hands with, and a faulty one changes nothing.

Names and expiry are read with `cryptography`: the ssl module shows them only of a peer's certificate that it has just
verified, so never of our own, and X.509 is no format to parse by hand.
"""

import json
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from gateway.config import BackendTls, CertificatePair, ListenerTls
from gateway.config.model import TlsVersion
from gateway.errors import StartupError
from gateway.protocol.proxy_protocol import ProxyHeader
from gateway.telemetry.metrics import CertificateReading

WATCH_INTERVAL_SECONDS: Final = 10.0
"""Certificates are renewed days before they expire; one stat of a few files each 10 s costs nothing."""

TICKET_KEY_SECONDS: Final = 6 * 3600.0
"""Session tickets are sealed with a key that OpenSSL makes with a context and keeps as long as that: whoever steals it
reads every TLS 1.2 connection that was resumed by it. A new context has a new key, and clients of the old one shake
hands in full once."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secret and authenticated only (RFC 9325 section 4.2). Those of TLS 1.3 all are."""

_VERSIONS: Final[dict[TlsVersion, ssl.TLSVersion]] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_ESCAPED_IN_NAMES: Final = re.compile(r'^[ #]|[,+"\\<>;]| $')
"""RFC 4514 section 2.4."""

_T = TypeVar("_T")

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFacts:
    """What a completed handshake with a client says about it: our own, or that of the proxy in front of us."""

    version: str
    """As OpenSSL names it, `TLSv1.3`; empty where a proxy does not say."""
    cipher: str
    """As OpenSSL names it; empty where a proxy does not say."""
    server_name: str | None
    """The name the client asked for (SNI); None: it asked for none."""
    client_subject: str | None
    """The subject of the client's verified certificate as in RFC 4514, `CN=alice,O=Example`; None: it showed none."""
    client_common_name: str | None
    """The first common name of that subject."""
    client_identity: str | None = None
    """Whom that certificate names, the same when it is renewed: its subjectAltName, else its subject."""
    client_alternative_name: str | None = None
    """The first name of the certificate's subjectAltName: URI, then mail, then DNS; None: it has none."""


class _ServerSocket(ssl.SSLSocket):
    """Remembers what the ssl module tells its callback only."""

    asked_server_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """One certificate that is in use."""

    pair: CertificatePair
    context: ssl.SSLContext
    names: tuple[str, ...]
    expires_at: float
    fingerprint: tuple[object, ...]
    loaded_at: float
    """By the system's monotonic clock."""


class ServerTls:
    """The TLS of one listener: `context` serves its next handshake.

    Several certificates are chosen by SNI: an exact name in a certificate's subjectAltName before a wildcard, the
    first listed before later ones; where none matches, or no name is asked for, the first certificate is shown. With
    `client_ca`, a client without a valid certificate is refused.
    """

    def __init__(self, config: ListenerTls, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `StartupError`, naming the file, for what cannot be read, parsed or does not belong together."""
        self._config: Final = config
        self._clock: Final = clock
        self._loaded: Sequence[_Loaded] = [self._load(pair) for pair in config.pairs()]
        self._by_name = _index(self._loaded)
        self._rotated: Final[set[CertificatePair]] = set()
        """Those that the last reload gave other ticket keys and nothing else."""

    @property
    def context(self) -> ssl.SSLContext:
        """For `Channel.start_tls(server_side=True)`; fetch it anew for every handshake."""
        return self._loaded[0].context

    @property
    def certificates(self) -> tuple[CertificateReading, ...]:
        """Every certificate in use with its expiry, for the metrics."""
        return tuple(
            CertificateReading(certificate=str(loaded.pair.certificate), expires_at=loaded.expires_at)
            for loaded in self._loaded
        )

    def reload(self) -> bool:
        """Takes up changed files for later handshakes; True when there were any.

        Raises `StartupError` for those that cannot be used: each goes on as it was, the others are taken up.
        """
        faults: list[str] = []
        self._rotated.clear()
        reloaded = [self._reload_pair(loaded, faults) for loaded in self._loaded]
        changed = any(
            new is not old and new.pair not in self._rotated for new, old in zip(reloaded, self._loaded, strict=True)
        )
        self._loaded, self._by_name = reloaded, _index(reloaded)
        if faults:
            raise StartupError("; ".join(faults))
        return changed

    async def watch(self, *, interval_seconds: float = WATCH_INTERVAL_SECONDS) -> None:
        """Reloads whenever files have changed, until cancelled; logs each change, and each new fault once."""
        await _watch(self.reload, self._watched, interval_seconds)

    @property
    def _watched(self) -> list[str]:
        return [reading.certificate for reading in self.certificates]

    def _load(self, pair: CertificatePair) -> _Loaded:
        fingerprint = self._fingerprint(pair)
        certificate = _read_certificate(pair.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _harden(context)
        context.minimum_version = _VERSIONS[self._config.minimum_version]
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        # WebSocket over HTTP/2 (RFC 8441) is not spoken here, so a client must not choose it.
        context.set_alpn_protocols(["http/1.1"])
        _load_chain(context, pair.certificate, pair.key)
        if self._config.client_ca is not None:
            _load_authorities(context, self._config.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            if self._config.client_crl is not None:
                _load_revocations(context, self._config.client_crl)
        context.sslsocket_class = _ServerSocket
        context.sni_callback = self._choose
        return _Loaded(
            pair=pair,
            context=context,
            names=_names(certificate),
            expires_at=certificate.not_valid_after_utc.timestamp(),
            fingerprint=fingerprint,
            loaded_at=self._clock(),
        )

    def _reload_pair(self, loaded: _Loaded, faults: list[str]) -> _Loaded:
        try:
            if self._fingerprint(loaded.pair) != loaded.fingerprint:
                return self._load(loaded.pair)
            if self._clock() - loaded.loaded_at >= TICKET_KEY_SECONDS:
                self._rotated.add(loaded.pair)
                return self._load(loaded.pair)
            return loaded
        except StartupError as fault:
            faults.append(str(fault))
            return loaded

    def _fingerprint(self, pair: CertificatePair) -> tuple[object, ...]:
        """Differs when a file was written or replaced, also through a symbolic link as Kubernetes does it."""
        paths = (pair.certificate, pair.key, self._config.client_ca, self._config.client_crl)
        return tuple(_stamp(path) for path in paths if path is not None)

    def _choose(self, sock: ssl.SSLSocket | ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
        if isinstance(sock, _ServerSocket):
            sock.asked_server_name = server_name
        if server_name is not None:
            name = server_name.lower().removesuffix(".")
            wildcard = "*." + name.partition(".")[2]
            sock.context = self._by_name.get(name) or self._by_name.get(wildcard) or self.context


def facts(sock: ssl.SSLSocket) -> TlsFacts:
    """What the handshake of a listener's connection said; it must be complete."""
    cipher = sock.cipher()
    der = sock.getpeercert(binary_form=True)
    certificate = None if der is None else x509.load_der_x509_certificate(der)
    subject = None if certificate is None else certificate.subject
    common_names = [] if subject is None else subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return TlsFacts(
        version=sock.version() or "",
        cipher=cipher[0] if cipher else "",
        server_name=sock.asked_server_name if isinstance(sock, _ServerSocket) else None,
        client_subject=None if subject is None else subject.rfc4514_string(),
        client_common_name=str(common_names[0].value) if common_names else None,
        client_identity=None if certificate is None else identity_of(certificate),
        client_alternative_name=None if certificate is None else _alternative_name(certificate),
    )


def _alternative_name(certificate: x509.Certificate) -> str | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    kinds = (x509.UniformResourceIdentifier, x509.RFC822Name, x509.DNSName)
    return next((str(name) for kind in kinds for name in names.get_values_for_type(kind)), None)


def proxied_facts(header: ProxyHeader) -> TlsFacts | None:
    """What the proxy in front says of the TLS connection that it ended; None: there was none."""
    if header.tls is None:
        return None
    name = header.tls.client_common_name
    subject = None if name is None else "CN=" + _ESCAPED_IN_NAMES.sub(r"\\\g<0>", name)
    return TlsFacts(
        version=header.tls.version,
        cipher=header.tls.cipher,
        server_name=header.authority,
        client_subject=subject,
        client_common_name=name,
        client_identity=None if subject is None else f"subject:{subject}",
    )


class ClientTls:
    """The TLS towards one route's backend: `context` serves its next handshake."""

    def __init__(self, config: BackendTls | None) -> None:
        """Verifies the backend's certificate and name against `config`'s authorities, or the system's.

        Raises `StartupError`, naming the file, for what cannot be read, parsed or does not belong together.
        """
        self._config: Final = config
        files = () if config is None else (config.ca, config.certificate, config.key)
        self._files: Final = tuple(path for path in files if path is not None)
        self._fingerprint = self._stamp()
        self._expires_at: float | None = None
        self.context = self._load()

    @property
    def certificates(self) -> tuple[CertificateReading, ...]:
        """The gateway's own certificate with its expiry, for the metrics, where it has one to show."""
        if self._config is None or self._config.certificate is None or self._expires_at is None:
            return ()
        return (CertificateReading(certificate=str(self._config.certificate), expires_at=self._expires_at),)

    def reload(self) -> bool:
        """Takes up changed files for later handshakes; True when there were any.

        Raises `StartupError` for those that cannot be used: it goes on as it was.
        """
        fingerprint = self._stamp()
        if fingerprint == self._fingerprint:
            return False
        self.context = self._load()
        self._fingerprint = fingerprint
        return True

    async def watch(self, *, interval_seconds: float = WATCH_INTERVAL_SECONDS) -> None:
        """Reloads whenever files have changed, until cancelled; logs each change, and each new fault once."""
        await _watch(self.reload, [str(path) for path in self._files], interval_seconds)

    def _stamp(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in self._files)

    def _load(self) -> ssl.SSLContext:
        context = _client_context(self._config)
        if self._config is not None and self._config.certificate is not None:
            self._expires_at = _read_certificate(self._config.certificate).not_valid_after_utc.timestamp()
        return context


def _client_context(config: BackendTls | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config is None or config.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_authorities(context, config.ca)
    if config is not None and config.certificate is not None and config.key is not None:
        _load_chain(context, config.certificate, config.key)
    return context


async def _watch(reload: Callable[[], bool], files: Sequence[str], interval_seconds: float) -> None:
    complaint = ""
    while True:
        await trio.sleep(interval_seconds)
        try:
            if reload():
                _log.info("certificates_reloaded", files=list(files))
            complaint = ""
        except StartupError as fault:
            if str(fault) != complaint:
                _log.error("certificates_not_reloaded", problem=str(fault), kept="the ones in use")
            complaint = str(fault)


def _harden(context: ssl.SSLContext) -> None:
    context.set_ciphers(CIPHERS)
    # Compression tells secrets by their length; renegotiation lets a client make us compute at will.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _index(certificates: Sequence[_Loaded]) -> dict[str, ssl.SSLContext]:
    by_name: dict[str, ssl.SSLContext] = {}
    for loaded in certificates:
        for name in loaded.names:
            by_name.setdefault(name, loaded.context)
    return by_name


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names a client may ask for; the common name is none of them (RFC 9525 section 2)."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower().removesuffix(".") for name in extension.value.get_values_for_type(x509.DNSName))


def identity_of(certificate: x509.Certificate) -> str:
    """Whom a client's certificate names: names in any order are the same, those of different kinds never are."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = sorted({f"{type(name).__name__}:{_shown(name)}" for name in names})
    except x509.ExtensionNotFound:
        shown = []
    except ValueError:
        # What cannot be read names nobody, so it is good for this very certificate only.
        return f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"
    # As JSON, in which no name can be written that reads as two.
    return f"san:{json.dumps(shown)}" if shown else f"subject:{certificate.subject.rfc4514_string()}"


def _shown(name: x509.GeneralName) -> str:
    if isinstance(name, x509.OtherName):
        return f"{name.type_id.dotted_string}={name.value.hex()}"
    return name.value.rfc4514_string() if isinstance(name, x509.DirectoryName) else str(name.value)


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = _reading(path, path.stat)
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read_certificate(path: Path) -> x509.Certificate:
    pem = _reading(path, path.read_bytes)
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise StartupError(f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        _reading(path, path.read_bytes)
    try:
        # The empty passphrase keeps OpenSSL from asking for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartupError(f"the key {key} does not belong to the certificate {certificate}") from None
        raise StartupError(
            f"{key} and {certificate} cannot be used: a private key in PEM form without a passphrase and a "
            f"certificate in PEM form are expected ({error.reason or error})"
        ) from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _reading(path, path.read_bytes)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise StartupError(f"{path} holds no certificate authority in PEM form") from None


def _load_revocations(context: ssl.SSLContext, path: Path) -> None:
    """Those on the lists are refused; so is everybody of an authority without one, or whose list is out of date."""
    pem = _reading(path, path.read_bytes)
    if b"-----BEGIN X509 CRL-----" not in pem:
        raise StartupError(f"{path} holds no revocation list in PEM form (-----BEGIN X509 CRL-----)")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise StartupError(f"{path} holds no revocation list that can be used ({error.reason or error})") from None
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _reading(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}; name a file that this user may read") from None
