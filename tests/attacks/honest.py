"""Clients that must notice nothing: `python -m tests.attacks.honest PORT CLIENTS SECONDS`.

Each sends a message of 16 bytes ten times a second to an echo behind the gateway and checks that its own bytes come
back in order, all of them. Prints JSON: how many were sent, came back and were lost, and the round trips' quantiles.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from typing import Final

from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode
from tests.support.peers.wire import upgrade

PER_SECOND: Final = 10
PATIENCE_SECONDS: Final = 20.0
"""For what is still under way when all is sent."""

MESSAGE: Final = struct.Struct("!QQ")


class Client:
    """One honest client."""

    def __init__(self, port: int, number: int) -> None:
        self.number = number
        source = f"127.77.{number // 200}.{1 + number % 200}"
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS, source_address=(source, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(upgrade("/echo"))
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.sock.recv(4096)
            if not data:
                raise ConnectionResetError(head.decode(errors="replace"))
            head += data
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionResetError(head.decode(errors="replace"))
        self.ws = WebSocketConnection(client=True)
        self.sent_at: list[float] = []
        self.returned = 0
        self.rest = b""
        self.fault = ""
        self.trips: list[float] = []

    def send(self) -> None:
        payload = MESSAGE.pack(self.number, len(self.sent_at))
        self.sent_at.append(time.monotonic())
        self.sock.sendall(self.ws.send([(int(Opcode.BINARY), payload, FIRST | LAST)]))

    def receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("ended by the gateway")
        now = time.monotonic()
        for opcode, payload, _ in self.ws.receive_data(data):
            if opcode == Opcode.PING:
                self.sock.sendall(self.ws.send([(int(Opcode.PONG), payload, FIRST | LAST)]))
            elif opcode == Opcode.BINARY:
                self.rest += payload
        if self.ws.close_received is not None:
            raise ConnectionResetError(f"closed: {self.ws.close_received}")
        while len(self.rest) >= MESSAGE.size:
            number, index = MESSAGE.unpack(self.rest[: MESSAGE.size])
            self.rest = self.rest[MESSAGE.size :]
            if (number, index) != (self.number, self.returned):
                raise ConnectionResetError(f"message {index} of {number} for {self.returned} of {self.number}")
            self.trips.append(now - self.sent_at[index])
            self.returned += 1


def run(port: int, count: int, seconds: float) -> dict[str, object]:
    """What became of all their messages."""
    clients = {client.sock.fileno(): client for client in (Client(port, number) for number in range(count))}
    os.write(1, b'{"connected": true}\n')
    everybody = list(clients.values())
    epoll = select.epoll()
    for fd in clients:
        epoll.register(fd, select.EPOLLIN)
    began = time.monotonic()
    turn = 0
    while True:
        now = time.monotonic()
        is_over = now - began >= seconds
        if is_over and all(client.returned == len(client.sent_at) for client in clients.values()):
            break
        if now - began > seconds + PATIENCE_SECONDS:
            break
        due = turn if is_over else int((now - began) * PER_SECOND * count)
        for _ in range(due - turn):
            client = everybody[turn % count]
            turn += 1
            if not client.fault:
                client.send()
        for fd, _ in epoll.poll(0.002):
            try:
                clients[fd].receive()
            except OSError as error:
                clients[fd].fault = str(error)
                epoll.unregister(fd)
                del clients[fd]
    trips = sorted(trip for client in everybody for trip in client.trips)
    sent = sum(len(client.sent_at) for client in everybody)
    return {
        "clients": count,
        "sent": sent,
        "lost": sent - len(trips),
        "faults": [client.fault for client in everybody if client.fault][:3],
        "p50_ms": round(1000 * trips[len(trips) // 2], 2) if trips else None,
        "p99_ms": round(1000 * trips[len(trips) * 99 // 100], 2) if trips else None,
        "max_ms": round(1000 * trips[-1], 2) if trips else None,
    }


if __name__ == "__main__":
    outcome = run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    os.write(1, (json.dumps(outcome) + "\n").encode())
