"""Peers for a pump that a test turns by hand: they collect what comes, and never block."""

import socket

from gateway.protocol.frames import FIRST, LAST, Opcode, Piece
from gateway.protocol.messages import State, WebSocketConnection

WHOLE = FIRST | LAST


class Peer:
    """The far end of a socket: collects all that comes, never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.got = bytearray()
        self.reads = True
        self.ended = False
        self.was_reset = False

    def poll(self) -> None:
        try:
            while self.reads and not self.ended:
                chunk = self.sock.recv(1 << 20)
                self.got += chunk
                self.ended = not chunk
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = self.was_reset = True

    def hang_up(self) -> None:
        """Closes; there is nothing to read any more."""
        self.ended = True
        self.sock.close()

    def reset(self) -> None:
        self.ended = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


class Browser(Peer):
    """A WebSocket client: `messages` in order, pings answered unless it is told not to."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.ws = WebSocketConnection(client=True)
        self.messages: list[str | bytes] = []
        self.pongs: list[bytes] = []
        self.pings = 0
        self.answers_pings = True
        self._parts: list[bytes] = []

    def poll(self) -> None:
        super().poll()
        data, self.got = bytes(self.got), bytearray()
        for opcode, payload, flags in self.ws.receive_data(data):
            if opcode == Opcode.PING:
                self.pings += 1
                if self.answers_pings and self.ws.state in (State.OPEN, State.CLOSE_RECEIVED):
                    self.send((int(Opcode.PONG), payload, WHOLE))
            elif opcode == Opcode.PONG:
                self.pongs.append(payload)
            elif opcode != Opcode.CLOSE:
                self._parts.append(payload)
                if flags & LAST:
                    whole = b"".join(self._parts)
                    self._parts.clear()
                    self.messages.append(whole.decode() if opcode == Opcode.TEXT else whole)

    def send(self, *pieces: Piece) -> None:
        self.sock.sendall(self.ws.send(pieces))

    def text(self, text: str) -> None:
        self.send((int(Opcode.TEXT), text.encode(), WHOLE))

    def binary(self, data: bytes) -> None:
        self.send((int(Opcode.BINARY), data, WHOLE))

    def ping(self, payload: bytes) -> None:
        self.send((int(Opcode.PING), payload, WHOLE))

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        self.sock.sendall(self.ws.close(code, reason))

    @property
    def close_code(self) -> int | None:
        return None if self.ws.close_received is None else self.ws.close_received.code

    @property
    def close_reason(self) -> str:
        assert self.ws.close_received is not None
        return self.ws.close_received.reason
