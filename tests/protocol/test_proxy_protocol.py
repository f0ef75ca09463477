"""PROXY protocol headers read byte by byte and at once, built, and broken in every way."""

import contextlib
import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.proxy_protocol import (
    LOCAL_HEADER,
    V2_MAX_BYTES,
    ProxyAddress,
    ProxyHeader,
    ProxyHeaderInvalid,
    ProxyHeaderReader,
    ProxyTls,
    build_v2,
    crc32c,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    version: str = "TLSv1.3"
    cipher: str = "TLS_AES_128_GCM_SHA256"
    client_subject: str | None = None
    client_common_name: str | None = None


def read(data: bytes, *, step: int = 4096) -> ProxyHeader | None:
    """The header at the start of `data`, taken in steps of at most `step` bytes; nothing behind it is read."""
    reader = ProxyHeaderReader()
    at = 0
    while at < len(data):
        size = min(step, reader.wanted_bytes)
        header = reader.feed(data[at : at + size])
        at += size
        if header is not None:
            assert reader.wanted_bytes == 0
            assert at == len(data), "the whole header was read"
            return header
    return None


def v2(command: int, family: int, payload: bytes) -> bytes:
    return struct.pack(">12sBBH", SIGNATURE, command, family, len(payload)) + payload


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


TCP4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack(">HH", 40000, 443)
CLIENT, SERVER = ProxyAddress(host="192.0.2.1", port=40000), ProxyAddress(host="198.51.100.2", port=443)
LONGEST_V1 = b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n"

GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n", ProxyHeader(client=CLIENT, server=SERVER)),
    (
        b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 0 65535\r\n",
        ProxyHeader(
            client=ProxyAddress(host="2001:db8::1", port=0), server=ProxyAddress(host="2001:db8::2", port=65535)
        ),
    ),
    (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 40000 443\r\n",
        ProxyHeader(client=CLIENT, server=SERVER),
    ),
    (b"PROXY UNKNOWN\r\n", ProxyHeader(client=None, server=None)),
    (LONGEST_V1, ProxyHeader(client=None, server=None)),
    (LOCAL_HEADER, ProxyHeader(client=None, server=None)),
    (v2(0x20, 0x11, b"whatever"), ProxyHeader(client=None, server=None)),
    (v2(0x21, 0x00, b""), ProxyHeader(client=None, server=None)),
    (v2(0x21, 0x11, TCP4), ProxyHeader(client=CLIENT, server=SERVER)),
    (
        v2(0x21, 0x21, bytes(10) + b"\xff\xff" + TCP4[:4] + bytes(15) + b"\x01" + TCP4[8:]),
        ProxyHeader(client=CLIENT, server=ProxyAddress(host="::1", port=443)),
    ),
    (v2(0x21, 0x31, bytes(216)), ProxyHeader(client=None, server=None)),
    (v2(0x21, 0x11, TCP4 + tlv(0xEE, b"x") + tlv(0x04, b"")), ProxyHeader(client=CLIENT, server=SERVER)),
    (
        v2(0x21, 0x11, TCP4 + tlv(0x02, b"chat.example.com") + tlv(0x20, b"\x00\x00\x00\x00\x01")),
        ProxyHeader(client=CLIENT, server=SERVER, authority="chat.example.com"),
    ),
    (
        v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x07\x00\x00\x00\x00" + tlv(0x21, b"TLSv1.2") + tlv(0x22, b"alice"))),
        ProxyHeader(
            client=CLIENT, server=SERVER, tls=ProxyTls(version="TLSv1.2", cipher="", client_common_name="alice")
        ),
    ),
    (
        v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x07\x00\x00\x00\x0a" + tlv(0x23, b"AES") + tlv(0x22, b"mallory"))),
        ProxyHeader(client=CLIENT, server=SERVER, tls=ProxyTls(version="", cipher="AES", client_common_name=None)),
    ),
    (
        v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x01\x00\x00\x00\x00" + tlv(0x22, b"mallory"))),
        ProxyHeader(client=CLIENT, server=SERVER, tls=ProxyTls(version="", cipher="", client_common_name=None)),
    ),
    (v2(0x21, 0x00, tlv(0x04, bytes(V2_MAX_BYTES - 3))), ProxyHeader(client=None, server=None)),
]


@pytest.mark.parametrize(("data", "expected"), GOOD)
@pytest.mark.parametrize("step", [1, 7, 4096])
def test_header_is_read_to_its_last_byte_and_no_further(data: bytes, expected: ProxyHeader, step: int) -> None:
    assert read(data, step=step) == expected


@pytest.mark.parametrize(("data", "_expected"), GOOD)
def test_reader_never_asks_for_what_stands_behind_the_header(data: bytes, _expected: ProxyHeader) -> None:
    reader = ProxyHeaderReader()
    for at in range(len(data)):
        assert reader.wanted_bytes <= len(data) - at
        reader.feed(data[at : at + 1])


def test_more_than_was_wanted_is_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="16 bytes were fed, 15 were wanted"):
        ProxyHeaderReader().feed(LOCAL_HEADER)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"GET / HTTP/1.1\r\n", "expected a PROXY protocol header, got b'GET / HTTP/1'"),
        (b"\x16\x03\x01\x02\x00", "expected a PROXY protocol header, got "),
        (b"PROXX", "expected a PROXY protocol header, got b'PROXX'"),
        (b"\r\n\r\nGET", "expected a PROXY protocol header, got "),
        (b"PROXY TCP4 \r\nabc", "PROXY v1 line has a line feed that does not end it"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\n\n", "PROXY v1 line has a line feed that does not end it"),
        (b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n", "PROXY v1 line is longer than 107 bytes"),
        (b"PROXY UNKNOWN " + b"f" * 94, "PROXY v1 line is longer than 107 bytes"),
        (b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n", "PROXY v1 protocol is 'UDP4', expected TCP4, TCP6 or UNKNOWN"),
        (b"PROXY tcp4 1.1.1.1 1.1.1.1 1 1\r\n", "PROXY v1 protocol is 'tcp4', expected TCP4, TCP6 or UNKNOWN"),
        (b"PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n", "PROXY v1 protocol is '', expected TCP4, TCP6 or UNKNOWN"),
        (b"PROXY TCP4 1.1.1.1  1.1.1.1 1 1\r\n", "PROXY v1 line has 7 words, expected 6 with one space between them"),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n", "PROXY v1 line has 5 words, expected 6 with one space between them"),
        (b"PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n", "PROXY v1 address is '1.1.1.256', expected one of TCP4"),
        (b"PROXY TCP4 ::1 ::1 1 1\r\n", "PROXY v1 address is '::1', expected one of TCP4"),
        (b"PROXY TCP6 1.1.1.1 ::1 1 1\r\n", "PROXY v1 address is '1.1.1.1', expected one of TCP6"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", "PROXY v1 address is 'fe80::1%eth0', expected one of TCP6"),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n", "PROXY v1 port is '01', expected 0 to 65535"),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", "PROXY v1 port is '65536', expected 0 to 65535"),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 -1\r\n", "PROXY v1 port is '-1', expected 0 to 65535"),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 \xb2\r\n", "PROXY v1 port is '²', expected 0 to 65535"),
        (v2(0x11, 0x11, TCP4), "PROXY v2 version and command are 0x11, expected 0x20 or 0x21"),
        (v2(0x22, 0x11, TCP4), "PROXY v2 version and command are 0x22, expected 0x20 or 0x21"),
        (v2(0x21, 0x12, TCP4), "PROXY v2 family is 0x12, expected 0x00, 0x11, 0x21 or 0x31 (a stream)"),
        (v2(0x21, 0x41, TCP4), "PROXY v2 family is 0x41, expected 0x00, 0x11, 0x21 or 0x31 (a stream)"),
        (v2(0x21, 0x11, TCP4[:-1]), "PROXY v2 header has 11 bytes of addresses, expected 12"),
        (v2(0x21, 0x31, bytes(215)), "PROXY v2 header has 215 bytes of addresses, expected 216"),
        (v2(0x21, 0x00, bytes(V2_MAX_BYTES + 1)), "PROXY v2 header announces 4097 bytes, expected at most 4096"),
        (v2(0x21, 0x11, TCP4 + b"\x04\x00"), "PROXY v2 entry at byte 28 goes beyond the end"),
        (v2(0x21, 0x11, TCP4 + b"\x04\x00\x02x"), "PROXY v2 entry at byte 28 goes beyond the end"),
        (v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x01\x00")), "PROXY v2 TLS entry has 2 bytes, expected at least 5"),
        (v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x01\0\0\0\0\x21\x00")), "PROXY v2 entry at byte 5 goes beyond the end"),
        (v2(0x21, 0x11, TCP4 + tlv(0x02, b"\xff")), "PROXY v2 entry is b'\\xff', expected UTF-8"),
    ],
)
def test_broken_header_is_refused_at_once_and_byte_by_byte(data: bytes, problem: str) -> None:
    with pytest.raises(ProxyHeaderInvalid) as refusal:
        read(data)
    assert str(refusal.value).startswith(problem)
    with pytest.raises(ProxyHeaderInvalid):
        read(data, step=1)


def with_checksum(payload: bytes) -> bytes:
    header = v2(0x21, 0x11, TCP4 + payload + tlv(0x03, bytes(4)) + tlv(0x02, b"a"))
    at = 16 + len(TCP4) + len(payload) + 3
    return header[:at] + crc32c(header).to_bytes(4, "big") + header[at + 4 :]


def test_checksum_that_fits_is_accepted_wherever_it_stands() -> None:
    for payload in (b"", tlv(0x04, b"padding")):
        assert read(with_checksum(payload)) == ProxyHeader(client=CLIENT, server=SERVER, authority="a")


@pytest.mark.parametrize("at", [17, 20, 31, 34, -1])
def test_header_that_was_changed_after_its_checksum_is_refused(at: int) -> None:
    header = bytearray(with_checksum(b""))
    header[at] ^= 0x20
    with pytest.raises(ProxyHeaderInvalid):
        read(bytes(header))


def test_checksum_of_another_length_is_refused() -> None:
    with pytest.raises(ProxyHeaderInvalid, match="PROXY v2 checksum is 000000, expected"):
        read(v2(0x21, 0x11, TCP4 + tlv(0x03, bytes(3))))


@pytest.mark.parametrize(
    ("data", "checksum"),
    # RFC 3720 appendix B.4
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_gives_the_values_of_the_rfc(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


@given(data=st.binary(max_size=120) | st.binary(max_size=60).map(lambda noise: v2(0x21, 0x11, TCP4 + noise)))
def test_noise_is_refused_or_read_and_nothing_else(data: bytes) -> None:
    reader = ProxyHeaderReader()
    at = 0
    with contextlib.suppress(ProxyHeaderInvalid):
        while at < len(data) and reader.wanted_bytes:
            step = reader.wanted_bytes
            header = reader.feed(data[at : at + step])
            assert (header is None) == (reader.wanted_bytes > 0)
            at += step


# --- building ---


def test_header_without_more_is_the_bytes_of_the_specification() -> None:
    assert build_v2(CLIENT, SERVER) == v2(0x21, 0x11, TCP4)


@given(
    client=st.ip_addresses(),
    server=st.ip_addresses(),
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    authority=st.none() | st.text(min_size=1, max_size=60),
)
def test_what_is_built_is_read(client: object, server: object, ports: tuple[int, int], authority: str | None) -> None:
    header = read(
        build_v2(
            ProxyAddress(host=str(client), port=ports[0]),
            ProxyAddress(host=str(server), port=ports[1]),
            tls=Tls(client_subject="CN=alice", client_common_name="alice"),
            authority=authority,
        )
    )
    assert header is not None
    assert header.client is not None
    assert header.server is not None
    assert (header.client.port, header.server.port) == ports
    unmapped = read(build_v2(header.client, header.server))
    assert unmapped == ProxyHeader(client=header.client, server=header.server)
    assert header.authority == authority
    assert header.tls == ProxyTls(version="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256", client_common_name="alice")


def test_addresses_of_two_families_are_sent_as_ipv6() -> None:
    header = build_v2(CLIENT, ProxyAddress(host="2001:db8::2", port=443))
    assert header[13] == 0x21
    assert read(header) == ProxyHeader(client=CLIENT, server=ProxyAddress(host="2001:db8::2", port=443))


@pytest.mark.parametrize("host", ["::ffff:192.0.2.1", "192.0.2.1"])
def test_ipv4_of_a_dual_stack_listener_is_sent_as_ipv4(host: str) -> None:
    assert build_v2(ProxyAddress(host=host, port=40000), SERVER) == v2(0x21, 0x11, TCP4)


def test_interface_of_a_link_local_address_is_left_out() -> None:
    header = read(build_v2(ProxyAddress(host="fe80::1%eth0", port=1), ProxyAddress(host="fe80::2", port=2)))
    assert header is not None
    assert header.client == ProxyAddress(host="fe80::1", port=1)


def test_client_of_a_unix_socket_is_sent_without_addresses() -> None:
    assert build_v2(None, SERVER, authority="a") == v2(0x21, 0x00, tlv(0x02, b"a"))


def test_client_without_a_certificate_is_not_verified() -> None:
    entry = b"\x01\x00\x00\x00\x01" + tlv(0x21, b"TLSv1.3") + tlv(0x23, b"TLS_AES_128_GCM_SHA256")
    assert build_v2(CLIENT, SERVER, tls=Tls()) == v2(0x21, 0x11, TCP4 + tlv(0x20, entry))


def test_name_that_is_no_host_name_for_its_length_is_left_out() -> None:
    long = "a" * 256
    header = read(
        build_v2(CLIENT, SERVER, tls=Tls(client_subject="CN=" + long, client_common_name=long), authority=long)
    )
    assert header is not None
    assert header.authority is None
    assert header.tls is not None
    assert header.tls.client_common_name is None
