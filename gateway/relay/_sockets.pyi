"""The compiled reading and writing of sockets; its interface is the pure twin's, to the letter."""

from gateway.relay._sockets_py import ReadBuffer as ReadBuffer
from gateway.relay._sockets_py import acked_bytes as acked_bytes
from gateway.relay._sockets_py import send as send
