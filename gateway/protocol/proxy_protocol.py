"""The PROXY protocol: who connected, told by the proxy in front of a listener (v1, v2) and to a backend (v2).

Invariant: a reader holds at most one header, of 107 bytes (v1) or 16 bytes and 4 KiB (v2), and never asks for a byte
behind it: what follows may be a TLS handshake, which has to stay in the socket.

The specification is HAProxy's doc/proxy-protocol.txt; its sections are named where they decide.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol

from gateway.errors import Blame, KakitomeError
from gateway.protocol.pieces import Buffer

V1_MAX_BYTES: Final = 107
"""The longest v1 line, its CRLF included (section 2.1)."""

V2_MAX_BYTES: Final = 4096
"""What may follow the 16 fixed bytes of v2. Addresses and the TLVs in use come to less than 1 KiB."""

LOCAL_HEADER: Final = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
"""A v2 header for a connection of the proxy's own, such as a health check (section 2.2, LOCAL)."""

_V1_SIGNATURE: Final = b"PROXY "
_V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
"""One byte less than the fixed part of v2: so much may be read before the version is known."""
_V2_SIGNATURE: Final = LOCAL_HEADER[:12]
_V2_FIXED: Final = struct.Struct(">12sBBH")

_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESSES: Final = {
    _UNSPEC: struct.Struct(""),
    _TCP4: struct.Struct(">4s4sHH"),
    _TCP6: struct.Struct(">16s16sHH"),
    _UNIX: struct.Struct("108s108s"),
}

_TLV: Final = struct.Struct(">BH")
_SSL: Final = struct.Struct(">BI")
_TYPE_AUTHORITY: Final = 0x02
_TYPE_CRC32C: Final = 0x03
_TYPE_SSL: Final = 0x20
_SUBTYPE_SSL_VERSION: Final = 0x21
_SUBTYPE_SSL_CN: Final = 0x22
_SUBTYPE_SSL_CIPHER: Final = 0x23
_CLIENT_SSL, _CLIENT_CERT_CONN, _CLIENT_CERT_SESS = 0x01, 0x02, 0x04

_MAX_NAME_BYTES: Final = 255
"""No host name is longer (RFC 1035 section 2.3.4), and no common name of an honest certificate."""


class ProxyHeaderInvalid(KakitomeError):
    """What stands at the start of a connection is no PROXY protocol header: nothing of it can be believed."""

    blame = Blame.CLIENT
    reason = "proxy_header"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyAddress:
    """An IP address as text, without brackets, and a port. IPv4 that came as IPv6 (`::ffff:192.0.2.1`) is IPv4."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTls:
    """What the proxy says of the TLS connection that it ended."""

    version: str
    """As OpenSSL names it, `TLSv1.3`; empty where the proxy does not say."""
    cipher: str
    """As OpenSSL names it; empty where the proxy does not say."""
    client_common_name: str | None
    """Of the client's certificate, which the proxy verified; None: it showed none, or it was not valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """Who connected to the proxy, and to what.

    Both addresses are None where the header names none (LOCAL, UNKNOWN, UNSPEC, Unix sockets): the connection's own
    stand.
    """

    client: ProxyAddress | None
    server: ProxyAddress | None
    tls: ProxyTls | None = None
    authority: str | None = None
    """The host that the client asked for by SNI."""


class HostAndPort(Protocol):
    """An address that `build_v2` can send: any object with an IP address as text and a port."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class TlsDescription(Protocol):
    """What `build_v2` can say of a client's TLS connection."""

    @property
    def version(self) -> str: ...
    @property
    def cipher(self) -> str: ...
    @property
    def client_subject(self) -> str | None:
        """None: the client showed no certificate; what it shows is verified."""

    @property
    def client_common_name(self) -> str | None: ...


# --- reading ------------------------------------------------------------------------------------------------------


class ProxyHeaderReader:
    """Reads the header that begins a connection, v1 or v2.

    Read `wanted_bytes` from the socket at most, feed them, go on until a header comes.
    """

    __slots__ = ("_held", "wanted_bytes")

    def __init__(self) -> None:
        self._held = b""
        self.wanted_bytes: int = _V1_SHORTEST
        """How much may be read without going beyond the header; 0 once it is complete."""

    def feed(self, data: Buffer) -> ProxyHeader | None:
        """The header once it is complete, None before. Raises ProxyHeaderInvalid, as soon as it cannot become one.

        Raises ValueError for more than was wanted.
        """
        if len(data) > self.wanted_bytes:
            raise ValueError(f"{len(data)} bytes were fed, {self.wanted_bytes} were wanted")
        self._held += data
        held = self._held
        if _begins(held, _V1_SIGNATURE):
            return self._read_v1(held)
        if _begins(held, _V2_SIGNATURE):
            return self._read_v2(held)
        raise ProxyHeaderInvalid(f"expected a PROXY protocol header, got {held[:12]!r}")

    def _read_v1(self, held: bytes) -> ProxyHeader | None:
        if held.endswith(b"\r\n"):
            self.wanted_bytes = 0
            return _parse_v1(held)
        if b"\n" in held:
            raise ProxyHeaderInvalid("PROXY v1 line has a line feed that does not end it")
        # A CRLF is the shortest that can be missing, its line feed alone when the carriage return is here.
        missing = max(_V1_SHORTEST - len(held), 1 if held.endswith(b"\r") else 2)
        if len(held) + missing > V1_MAX_BYTES:
            raise ProxyHeaderInvalid(f"PROXY v1 line is longer than {V1_MAX_BYTES} bytes")
        self.wanted_bytes = missing
        return None

    def _read_v2(self, held: bytes) -> ProxyHeader | None:
        if len(held) < _V2_FIXED.size:
            self.wanted_bytes = _V2_FIXED.size - len(held)
            return None
        _, command, family, length = _V2_FIXED.unpack_from(held)
        if command not in (_LOCAL, _PROXY):
            raise ProxyHeaderInvalid(f"PROXY v2 version and command are {command:#04x}, expected 0x20 or 0x21")
        if length > V2_MAX_BYTES:
            raise ProxyHeaderInvalid(f"PROXY v2 header announces {length} bytes, expected at most {V2_MAX_BYTES}")
        self.wanted_bytes = _V2_FIXED.size + length - len(held)
        if self.wanted_bytes:
            return None
        if command == _LOCAL:
            # Section 2.2: the receiver must use the real connection's addresses and skip the rest.
            return ProxyHeader(client=None, server=None)
        return _parse_v2(held, family)


def _begins(held: bytes, signature: bytes) -> bool:
    return held[: len(signature)] == signature[: len(held)]


def _parse_v1(line: bytes) -> ProxyHeader:
    """Section 2.1: `PROXY TCP4|TCP6 client server client-port server-port`, one space between them."""
    words = line[:-2].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(client=None, server=None)
    if words[1] not in ("TCP4", "TCP6"):
        raise ProxyHeaderInvalid(f"PROXY v1 protocol is {words[1]!r}, expected TCP4, TCP6 or UNKNOWN")
    if len(words) != 6:
        raise ProxyHeaderInvalid(f"PROXY v1 line has {len(words)} words, expected 6 with one space between them")
    _, protocol, client, server, client_port, server_port = words
    return ProxyHeader(
        client=ProxyAddress(host=_v1_host(client, protocol), port=_v1_port(client_port)),
        server=ProxyAddress(host=_v1_host(server, protocol), port=_v1_port(server_port)),
    )


def _v1_host(word: str, protocol: str) -> str:
    try:
        address = IPv4Address(word) if protocol == "TCP4" else IPv6Address(word)
    except ValueError:
        address = None
    if address is None or "%" in word:
        raise ProxyHeaderInvalid(f"PROXY v1 address is {word!r}, expected one of {protocol}")
    return str(_ip(word))


def _v1_port(word: str) -> int:
    if word.isascii() and word.isdigit() and len(word) <= 5 and str(int(word)) == word and int(word) <= 65535:
        return int(word)
    raise ProxyHeaderInvalid(f"PROXY v1 port is {word!r}, expected 0 to 65535")


def _parse_v2(header: bytes, family: int) -> ProxyHeader:
    """A whole v2 header of the PROXY command."""
    addresses = _ADDRESSES.get(family)
    if addresses is None:
        raise ProxyHeaderInvalid(f"PROXY v2 family is {family:#04x}, expected 0x00, 0x11, 0x21 or 0x31 (a stream)")
    begin = _V2_FIXED.size
    if len(header) - begin < addresses.size:
        problem = f"PROXY v2 header has {len(header) - begin} bytes of addresses, expected {addresses.size}"
        raise ProxyHeaderInvalid(problem)
    client = server = None
    if family in (_TCP4, _TCP6):
        packed_client, packed_server, client_port, server_port = addresses.unpack_from(header, begin)
        client = ProxyAddress(host=str(_unmapped(ip_address(packed_client))), port=client_port)
        server = ProxyAddress(host=str(_unmapped(ip_address(packed_server))), port=server_port)
    tls = authority = None
    for kind, at, value in _tlvs(header, begin + addresses.size):
        if kind == _TYPE_CRC32C:
            # Section 2.2.3: computed with the checksum itself taken as zeroes.
            computed = crc32c(header[:at] + bytes(len(value)) + header[at + len(value) :])
            if value != computed.to_bytes(4, "big"):
                raise ProxyHeaderInvalid(f"PROXY v2 checksum is {value.hex()}, expected {computed:08x}")
        elif kind == _TYPE_AUTHORITY:
            authority = _text(value)
        elif kind == _TYPE_SSL:
            tls = _parse_tls(value)
    return ProxyHeader(client=client, server=server, tls=tls, authority=authority)


def _parse_tls(value: bytes) -> ProxyTls | None:
    """Section 2.2.5: flags, the result of the verification (0: valid), then TLVs again."""
    if len(value) < _SSL.size:
        raise ProxyHeaderInvalid(f"PROXY v2 TLS entry has {len(value)} bytes, expected at least {_SSL.size}")
    flags, verify = _SSL.unpack_from(value)
    if not flags & _CLIENT_SSL:
        return None
    told = {kind: _text(entry) for kind, _, entry in _tlvs(value, _SSL.size)}
    is_verified = verify == 0 and flags & (_CLIENT_CERT_CONN | _CLIENT_CERT_SESS)
    return ProxyTls(
        version=told.get(_SUBTYPE_SSL_VERSION, ""),
        cipher=told.get(_SUBTYPE_SSL_CIPHER, ""),
        client_common_name=told.get(_SUBTYPE_SSL_CN) if is_verified else None,
    )


def _tlvs(data: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """(type, where the value begins, value) of each entry from `at` on. Raises ProxyHeaderInvalid where one is cut."""
    while at < len(data):
        begin = at + _TLV.size
        kind, length = _TLV.unpack_from(data, at) if begin <= len(data) else (0, len(data))
        if begin + length > len(data):
            raise ProxyHeaderInvalid(f"PROXY v2 entry at byte {at} goes beyond the end")
        yield kind, begin, data[begin : begin + length]
        at = begin + length


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ProxyHeaderInvalid(f"PROXY v2 entry is {value[:32]!r}, expected UTF-8") from None


# --- building -----------------------------------------------------------------------------------------------------


def build_v2(
    client: HostAndPort | None,
    server: HostAndPort | None,
    *,
    tls: TlsDescription | None = None,
    authority: str | None = None,
    custom: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """The v2 header that tells a backend of a client; without both addresses (a Unix socket) it names none.

    `authority` is the host that the client asked for; one longer than 255 bytes is left out. `custom`: type and value
    of entries of other kinds (section 2.2.8).
    """
    if client is None or server is None:
        family, addresses = _UNSPEC, b""
    else:
        ours, theirs = _ip(client.host), _ip(server.host)
        if ours.version != theirs.version:
            # One family for both: an IPv4 address as IPv6 writes it (RFC 4291 section 2.5.5.2).
            ours, theirs = _mapped(ours), _mapped(theirs)
        family = _TCP4 if ours.version == 4 else _TCP6
        addresses = _ADDRESSES[family].pack(ours.packed, theirs.packed, client.port, server.port)
    entries = b""
    if authority is not None and len(authority.encode()) <= _MAX_NAME_BYTES:
        entries += _tlv(_TYPE_AUTHORITY, authority.encode())
    if tls is not None:
        entries += _tlv(_TYPE_SSL, _tls_entry(tls))
    entries += b"".join(_tlv(kind, value) for kind, value in custom)
    return _V2_FIXED.pack(_V2_SIGNATURE, _PROXY, family, len(addresses) + len(entries)) + addresses + entries


def _tls_entry(tls: TlsDescription) -> bytes:
    shown = tls.client_subject is not None
    # Section 2.2.5: "zero if the client presented a certificate and it was successfully verified, non-zero otherwise".
    entry = _SSL.pack(_CLIENT_SSL | (_CLIENT_CERT_CONN | _CLIENT_CERT_SESS if shown else 0), 0 if shown else 1)
    entry += _tlv(_SUBTYPE_SSL_VERSION, tls.version.encode()) + _tlv(_SUBTYPE_SSL_CIPHER, tls.cipher.encode())
    name = (tls.client_common_name or "").encode()
    if shown and 0 < len(name) <= _MAX_NAME_BYTES:
        entry += _tlv(_SUBTYPE_SSL_CN, name)
    return entry


def _tlv(kind: int, value: bytes) -> bytes:
    return _TLV.pack(kind, len(value)) + value


def _ip(host: str) -> IPv4Address | IPv6Address:
    """The address without the interface it came in by."""
    return _unmapped(ip_address(host.partition("%")[0]))


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """IPv4 for an IPv4 address that a dual-stack socket gave as IPv6."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    return IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed) if isinstance(address, IPv4Address) else address


# --- the checksum -------------------------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 3720 appendix B.4)."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
