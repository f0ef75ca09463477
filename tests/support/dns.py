"""A DNS server for tests: knows some names, keeps silent about others, and counts what it was asked."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

PORT: Final = 53
"""glibc's resolv.conf(5) names no port."""

_A: Final = 1
_RESPONSE: Final = 0x8180
_NXDOMAIN: Final = 3


@dataclass(slots=True, kw_only=True)
class DnsServer:
    """Answers from `names`; what is not there does not exist, and of what begins with `mute` nothing is ever said."""

    address: str
    names: dict[str, Sequence[str]]
    asked: Counter[str] = field(default_factory=Counter)

    def answer(self, query: bytes) -> bytes | None:
        """What is sent back (RFC 1035 section 4); None: nothing."""
        labels, at = [], 12
        while size := query[at]:
            labels.append(query[at + 1 : at + 1 + size].decode())
            at += 1 + size
        name, (kind,) = ".".join(labels), struct.unpack_from("!H", query, at + 1)
        self.asked[name] += 1
        if name.startswith("mute"):
            return None
        hosts = self.names.get(name)
        found = hosts if hosts and kind == _A else ()
        flags = _RESPONSE if hosts else _RESPONSE | _NXDOMAIN
        head = query[:2] + struct.pack("!5H", flags, 1, len(found), 0, 0)
        records = (b"\xc0\x0c" + struct.pack("!HHIH", _A, 1, 0, 4) + socket.inet_aton(host) for host in found)
        return head + query[12 : at + 5] + b"".join(records)


@contextmanager
def dns_server(address: str, names: Mapping[str, Sequence[str]]) -> Iterator[DnsServer]:
    """Serves at `address`, a loopback one; raises PermissionError for who may not bind port 53."""
    server = DnsServer(address=address, names=dict(names))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))

        def serve() -> None:
            while True:
                query, sender = sock.recvfrom(4096)
                if not query:
                    return
                answer = server.answer(query)
                if answer is not None:
                    sock.sendto(answer, sender)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", (address, PORT))
            thread.join()
