# cython: language_level=3, boundscheck=False, wraparound=False
"""Reading and writing of plain sockets, compiled: the same behaviour as `_sockets_py`, without an argument parser,
a memoryview and a giving back of the GIL around each system call. None of these blocks, so nobody waits for the GIL
longer than the kernel takes to copy one buffer.

Memory safety: `_buffer` is a bytearray that never changes its size while this object lives, because `view` exports it.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EBADF, errno
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef extern from "<sys/socket.h>" nogil:
    const int MSG_DONTWAIT, MSG_NOSIGNAL
    ssize_t c_recv "recv" (int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send" (int fd, const void *buffer, size_t size, int flags)

    ctypedef unsigned int socklen_t
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size)

cdef extern from "<netinet/in.h>" nogil:
    const int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    const int TCP_INFO

cdef enum: SMALL_BYTES = 4096
cdef enum: ACKED_AT = 120, ACKED_END = 128  # tcpi_bytes_acked; see telemetry.tcp_info


cdef class ReadBuffer:
    cdef bytearray _buffer
    cdef readonly object view

    def __cinit__(self, Py_ssize_t size):
        self._buffer = bytearray(size)
        self.view = memoryview(self._buffer)

    def receive(self, int fd, Py_ssize_t most=1 << 30):
        cdef char *start = PyByteArray_AS_STRING(self._buffer)
        cdef Py_ssize_t count = c_recv(fd, start, min(most, PyByteArray_GET_SIZE(self._buffer)), MSG_DONTWAIT)
        if count < 0:
            PyErr_SetFromErrno(OSError)
        if count <= SMALL_BYTES:
            return PyBytes_FromStringAndSize(start, count)
        return self.view[:count]


def send(int fd, bytes data not None):
    cdef Py_ssize_t taken = c_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_DONTWAIT | MSG_NOSIGNAL)
    if taken < 0:
        PyErr_SetFromErrno(OSError)
    return taken


def acked_bytes(sock not None):
    cdef unsigned char info[ACKED_END]
    cdef socklen_t size = sizeof(info)
    cdef uint64_t acked
    if getsockopt(sock.fileno(), IPPROTO_TCP, TCP_INFO, info, &size) < 0:
        if errno == EBADF:
            PyErr_SetFromErrno(OSError)
        return None
    if size < sizeof(info):
        return None
    memcpy(&acked, info + ACKED_AT, sizeof(acked))
    return acked
