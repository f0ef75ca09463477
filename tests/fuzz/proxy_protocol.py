"""PROXY protocol headers: the same however they are cut, never a byte beyond them, and what was built is read."""

from typing import Final

from gateway.protocol.proxy_protocol import (
    LOCAL_HEADER,
    V2_MAX_BYTES,
    ProxyAddress,
    ProxyHeader,
    ProxyHeaderInvalid,
    ProxyHeaderReader,
    build_v2,
)
from tests.fuzz.target import Target


def check(data: bytes) -> None:
    """Input: what a connection begins with."""
    greedy, taken = _read(data, step=V2_MAX_BYTES)
    patient, taken_bytewise = _read(data, step=1)
    assert greedy == patient
    assert taken <= 16 + V2_MAX_BYTES
    if greedy is not None:
        assert taken == taken_bytewise
        # With nothing behind the header, and with something else behind it, it is the same header.
        assert _read(data[:taken], step=V2_MAX_BYTES) == (greedy, taken)
        assert _read(data[:taken] + b"GET /", step=V2_MAX_BYTES) == (greedy, taken)
        assert (greedy.client is None) == (greedy.server is None)
        again, _ = _read(build_v2(greedy.client, greedy.server), step=V2_MAX_BYTES)
        assert again == ProxyHeader(client=greedy.client, server=greedy.server)


def _read(data: bytes, *, step: int) -> tuple[ProxyHeader | None, int]:
    """The header, None where there is none or not all of it, and how many bytes were taken."""
    reader = ProxyHeaderReader()
    taken = 0
    try:
        while taken < len(data):
            read = data[taken : taken + min(step, reader.wanted_bytes)]
            taken += len(read)
            header = reader.feed(read)
            if header is not None:
                return header, taken
    except ProxyHeaderInvalid:
        pass
    return None, taken


class _Tls:
    version = "TLSv1.3"
    cipher = "TLS_AES_128_GCM_SHA256"
    client_subject = "CN=alice"
    client_common_name = "alice"


_V4: Final = ProxyAddress(host="192.0.2.1", port=40000)
_V6: Final = ProxyAddress(host="2001:db8::1", port=443)

TARGET: Final = Target(
    name="proxy_protocol",
    check=check,
    seeds=(
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n",
        b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 65535\r\nGET / HTTP/1.1\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n",
        LOCAL_HEADER,
        build_v2(_V4, _V4, tls=_Tls(), authority="chat.example.com"),
        build_v2(_V6, _V4, authority="a") + b"\x16\x03\x01",
        build_v2(None, None, tls=_Tls()),
        LOCAL_HEADER[:12] + b"\x21\x11\x00\x13" + bytes(12) + b"\x03\x00\x04" + bytes(4),
    ),
    tokens=(
        b"PROXY ",
        b"\r\n",
        b" 65536",
        b"::ffff:",
        LOCAL_HEADER[:12],
        b"\x21\x11",
        b"\x21\x31",
        b"\x20\x00\x05\x01\x00\x00\x00\x00",
        b"\x03\x00\x04",
    ),
    peak_bytes=1 << 18,
)
