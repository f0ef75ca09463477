# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The frame codec, compiled; in one file because its parts are C inlines of each other.

It behaves as `_frames_py` does, without an interpreter step per byte or header.

General theory of operation. `FrameDecoder.feed` walks raw pointers over one read. A header that lies whole in the read
is parsed where it stands; one that is split is gathered in `stash`. Data payload is unmasked straight into the bytes
object that is handed out, so it is written once and never kept. Control payload is gathered in a fixed array.

Memory safety rests on three facts, each argued where it is used: a pointer is read only below `end`; `stash` never
holds more than a header (14 bytes) and `control` never more than 125 bytes, because a longer one is refused at its
header; and the encoder works on a tuple of its own, so that nothing can change sizes between measuring and writing.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from gateway.protocol import frame_rules

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    long PyLong_AsLong(object number) except? -1
    long PyLong_AsLongAndOverflow(object number, int *overflow) except? -1
    void PyObject_GC_UnTrack(PyObject *op)
    # The same macros for borrowed references, which Cython then does not count.
    bint tuple_check "PyTuple_CheckExact" (PyObject *op) noexcept
    Py_ssize_t tuple_size "PyTuple_GET_SIZE" (PyObject *op) noexcept
    PyObject *tuple_item "PyTuple_GET_ITEM" (PyObject *op, Py_ssize_t index) noexcept
    bint bytes_check "PyBytes_CheckExact" (PyObject *op) noexcept
    Py_ssize_t bytes_size "PyBytes_GET_SIZE" (PyObject *op) noexcept

cdef enum: FIRST = 1, LAST = 2, COMPRESSED = 4
cdef enum: TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10
cdef enum: FIN = 0x80, RSV1 = 0x40, OPCODE = 0x0F  # of the first byte, as in frame_rules
cdef enum: LENGTH = 0x7F  # of the second
cdef enum: NO_FRAME, DATA_FRAME, CONTROL_FRAME
cdef enum: MAX_CONTROL = 125
cdef enum: MAX_HEADER = 14  # 2 bytes, 8 of length, 4 of key

cdef uint64_t MAX_LENGTH = frame_rules.MAX_LENGTH

# The rule table of frame_rules, [compression][in_message][first byte]: one load per header.
cdef uint8_t legal_first_bytes[2][2][256]


cdef void load_rules():
    cdef int compression, in_message, byte
    cdef object rules = frame_rules.LEGAL_FIRST_BYTES
    for compression in range(2):
        for in_message in range(2):
            for byte in range(256):
                legal_first_bytes[compression][in_message][byte] = rules[compression][in_message][byte]


load_rules()


# --- bytes ----------------------------------------------------------------------------------------------------------


cdef struct Utf8State:
    int missing  # continuation bytes the character under way still needs
    uint8_t low  # the range its next byte must be in
    uint8_t high


cdef Py_ssize_t first_impossible(const uint8_t *data, Py_ssize_t size, Utf8State *state) noexcept nogil:
    """The index of the first byte that no UTF-8 text can have there, or -1 (Unicode 15 table 3-7)."""
    cdef Py_ssize_t i = 0
    cdef uint64_t word
    cdef uint8_t byte
    while i < size:
        if state.missing == 0:
            byte = data[i]
            if byte < 0x80:
                i += 1
                while i + 8 <= size:
                    memcpy(&word, data + i, 8)
                    if word & <uint64_t>0x8080808080808080:
                        break
                    i += 8
                continue
            # Most characters of most scripts, whole and without a special range: 2.2 GB/s instead of 0.6.
            if 0xE1 <= byte <= 0xEC and i + 3 <= size and data[i + 1] & 0xC0 == 0x80 and data[i + 2] & 0xC0 == 0x80:
                i += 3
                continue
            if byte < 0xC2 or byte > 0xF4:
                return i
            state.missing = 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
            state.low = 0xA0 if byte == 0xE0 else 0x90 if byte == 0xF0 else 0x80
            state.high = 0x9F if byte == 0xED else 0x8F if byte == 0xF4 else 0xBF
        else:
            byte = data[i]
            if byte < state.low or byte > state.high:
                return i
            state.missing -= 1
            state.low = 0x80
            state.high = 0xBF
        i += 1
    return -1


cdef inline void apply_mask(uint8_t *target, const uint8_t *source, Py_ssize_t size, const uint8_t *key) noexcept nogil:
    """XORs `size` bytes with the 4-byte key, repeated; the areas must not overlap."""
    cdef uint8_t keys[8]
    cdef uint64_t wide, word
    cdef Py_ssize_t i = 0
    memcpy(keys, key, 4)
    memcpy(keys + 4, key, 4)
    memcpy(&wide, keys, 8)
    while i + 8 <= size:
        memcpy(&word, source + i, 8)
        word ^= wide
        memcpy(target + i, &word, 8)
        i += 8
    while i < size:
        target[i] = source[i] ^ keys[i & 7]
        i += 1


cdef inline uint64_t read_big_endian(const uint8_t *data, int width) noexcept nogil:
    cdef uint64_t number = 0
    cdef int i
    for i in range(width):
        number = number << 8 | data[i]
    return number


cdef inline int append_piece(list pieces, int opcode, object payload, int flags) except -1:
    cdef tuple piece = (opcode, payload, flags)
    # A tuple of two ints and a bytes cannot be part of a cycle; the collector would find that out by walking it.
    PyObject_GC_UnTrack(<PyObject *>piece)
    pieces.append(piece)
    return 0


# --- decoding -------------------------------------------------------------------------------------------------------


cdef class Utf8Validator:
    """Checks UTF-8 as it arrives: strictly (no surrogates, no overlong forms), failing at the first impossible byte."""

    cdef Utf8State state
    cdef bint valid

    def __cinit__(self):
        self.state.missing = 0
        self.valid = True

    @property
    def complete(self):
        """All fed so far is valid and ends at the end of a character."""
        return self.valid and self.state.missing == 0

    def feed(self, data not None):
        """Whether all bytes fed so far begin some valid text; once False, it stays so."""
        cdef Py_buffer view
        if self.valid:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            self.valid = first_impossible(<const uint8_t *>view.buf, view.len, &self.state) < 0
            PyBuffer_Release(&view)
        return self.valid


cdef class FrameDecoder:
    """Turns the bytes of one direction of a WebSocket connection into pieces.

    `masked`: frames must be masked (they come from a client) or must not be. `message_bytes` limits what the frames of
    an uncompressed message announce, None is no limit. `compression` allows RSV1 on the first frame of a message.
    """

    cdef readonly object error  # why the peer must be failed; once set, nothing is decoded any more
    cdef readonly bint closed  # a CLOSE frame was decoded; what came after it is ignored (RFC 6455 section 5.5.1)
    cdef readonly bint in_message  # a data message has begun and not ended

    cdef readonly uint64_t frames  # how many have begun, control frames included

    cdef bint masked
    cdef bint compression
    cdef uint64_t message_bytes
    # the message under way
    cdef int opcode
    cdef int flags
    cdef bint check_text
    cdef uint64_t received  # what its frames announced, the one under way included; wraps only where it is not used
    cdef Utf8State utf8
    # the frame under way
    cdef int frame
    cdef bint is_final
    cdef uint64_t remaining
    cdef uint8_t key[4]
    cdef int stashed
    cdef uint8_t stash[MAX_HEADER]
    cdef int control_opcode
    cdef int control_size
    cdef uint8_t control[MAX_CONTROL]

    def __init__(self, *, bint masked, message_bytes=None, bint compression=False):
        if message_bytes is not None and message_bytes < 0:
            raise ValueError(f"message_bytes must not be negative, got {message_bytes}")
        self.error = None
        self.closed = False
        self.in_message = False
        self.frames = 0
        self.masked = masked
        self.compression = compression
        self.message_bytes = MAX_LENGTH if message_bytes is None else min(message_bytes, frame_rules.MAX_LENGTH)
        self.frame = NO_FRAME
        self.remaining = 0
        self.stashed = 0

    def feed(self, data not None):
        """The pieces in `data`, up to the first fault (then `error` is set) or CLOSE frame (then `closed` is).

        A piece has payload or ends its message; a flood of empty fragments yields none.
        """
        cdef Py_buffer view
        cdef list pieces = []
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.error is None and not self.closed:
                self.decode(<const uint8_t *>view.buf, view.len, pieces)
        finally:
            PyBuffer_Release(&view)
        return pieces

    cdef int decode(self, const uint8_t *data, Py_ssize_t size, list pieces) except -1:
        cdef const uint8_t *end = data + size
        cdef Py_ssize_t taken
        cdef int header
        while data < end:
            if self.frame == NO_FRAME:
                if self.stashed:
                    # open_frame asks for more only while the header is not whole, so at most 13 bytes are stashed here.
                    self.stash[self.stashed] = data[0]
                    self.stashed += 1
                    data += 1
                    header = self.open_frame(self.stash, self.stashed)
                    if header == 0:
                        continue
                    self.stashed = 0
                else:
                    header = self.open_frame(data, end - data)
                    if header == 0:
                        # not whole: fewer than 14 bytes are left
                        self.stashed = <int>(end - data)
                        memcpy(self.stash, data, self.stashed)
                        return 0
                    if header > 0:
                        data += header
                if header < 0:
                    return 0
            # An announced length is below 2**63, so the smaller of the two fits Py_ssize_t.
            taken = end - data
            if self.remaining < <uint64_t>taken:
                taken = <Py_ssize_t>self.remaining
            if self.frame == CONTROL_FRAME:
                self.take_control(data, taken, pieces)
                if self.closed:
                    return 0
            elif not self.take_data(data, taken, pieces):
                return 0
            data += taken
        return 0

    cdef int open_frame(self, const uint8_t *header, Py_ssize_t available) except -2:
        """Reads a header: its size when it is whole, 0 when more bytes are needed, -1 when `error` was set."""
        cdef int first, second, opcode, size = 2
        cdef uint64_t length, received
        cdef bint compressed
        first = header[0]
        if not legal_first_bytes[self.compression][self.in_message][first]:
            self.error = frame_rules.first_byte_fault(first, compression=self.compression, in_message=self.in_message)
            return -1
        if available < 2:
            return 0
        second = header[1]
        if (second >> 7) != self.masked:
            self.error = frame_rules.masking_fault(expected=self.masked)
            return -1
        opcode = first & OPCODE
        length = second & LENGTH
        if opcode >= CLOSE:
            if length > MAX_CONTROL:
                self.error = frame_rules.control_length_fault(opcode)
                return -1
        elif length >= 126:
            size = 4 if length == 126 else 10
            if available < size:
                return 0
            length = read_big_endian(header + 2, size - 2)
            if length < <uint64_t>(126 if size == 4 else 0x10000) or length > MAX_LENGTH:
                self.error = frame_rules.length_fault(length)
                return -1
        if opcode < CLOSE:
            received = self.received if self.in_message else 0
            compressed = (self.flags & COMPRESSED if self.in_message else first & RSV1) != 0
            # Without compression `received` never exceeds `message_bytes`, so this cannot wrap.
            if not compressed and length > self.message_bytes - received:
                self.error = frame_rules.size_fault(received + length, self.message_bytes)
                return -1
        if self.masked:
            if available < size + 4:
                return 0
            memcpy(self.key, header + size, 4)
            size += 4
        self.remaining = length
        if opcode >= CLOSE:
            self.frame = CONTROL_FRAME
            self.control_opcode = opcode
            self.control_size = 0
            return size
        self.frames += 1
        self.frame = DATA_FRAME
        self.is_final = first >> 7
        self.received = received + length
        if not self.in_message:
            self.in_message = True
            self.opcode = opcode
            self.flags = FIRST | COMPRESSED if compressed else FIRST
            self.check_text = opcode == TEXT and not compressed
            self.utf8.missing = 0
        return size

    cdef inline void turn_key(self, Py_ssize_t taken) noexcept:
        """Moves the key on, after a part of a frame's payload."""
        cdef uint8_t turned[4]
        cdef int i
        for i in range(4):
            turned[i] = self.key[(i + taken) & 3]
        memcpy(self.key, turned, 4)

    cdef int take_control(self, const uint8_t *data, Py_ssize_t taken, list pieces) except -1:
        cdef bytes payload
        # control_size + remaining is the announced length, 125 at most, and taken <= remaining.
        if self.masked:
            apply_mask(self.control + self.control_size, data, taken, self.key)
            self.turn_key(taken)
        else:
            memcpy(self.control + self.control_size, data, taken)
        self.control_size += <int>taken
        self.remaining -= taken
        if self.remaining == 0:
            self.frames += 1
            self.frame = NO_FRAME
            self.closed = self.control_opcode == CLOSE
            payload = PyBytes_FromStringAndSize(<const char *>self.control, self.control_size)
            append_piece(pieces, self.control_opcode, payload, FIRST | LAST)
        return 0

    cdef bint take_data(self, const uint8_t *data, Py_ssize_t taken, list pieces) except -1:
        """Hands on the next bytes of the data frame under way, up to the first that makes text no UTF-8: then False."""
        cdef uint64_t offset = self.received - self.remaining
        cdef int flags = self.flags
        cdef bint ends
        cdef bytes payload
        cdef uint8_t *target
        cdef Py_ssize_t impossible
        self.remaining -= taken
        if self.remaining == 0:
            self.frame = NO_FRAME
        ends = self.remaining == 0 and self.is_final
        if taken == 0 and not ends:
            return True
        payload = PyBytes_FromStringAndSize(NULL, taken)
        if taken:
            target = <uint8_t *>PyBytes_AS_STRING(payload)
            if self.masked:
                apply_mask(target, data, taken, self.key)
                if self.remaining:
                    self.turn_key(taken)
            else:
                memcpy(target, data, taken)
            if self.check_text:
                impossible = first_impossible(target, taken, &self.utf8)
                if impossible >= 0:
                    if impossible:
                        append_piece(pieces, self.opcode, payload[:impossible], flags)
                    self.error = frame_rules.utf8_fault(offset + impossible)
                    return False
        if ends:
            if self.check_text and self.utf8.missing:
                if taken:
                    append_piece(pieces, self.opcode, payload, flags)
                self.error = frame_rules.utf8_end_fault()
                return False
            self.in_message = False
            flags |= LAST
        append_piece(pieces, self.opcode, payload, flags)
        self.flags &= ~FIRST
        return True


# --- encoding -------------------------------------------------------------------------------------------------------


cdef inline Py_ssize_t header_size(Py_ssize_t length, bint masked) noexcept:
    cdef Py_ssize_t size = 2 if length < 126 else (4 if length < 0x10000 else 10)
    return size + 4 if masked else size


# CPython has one object for each small number, so the usual pieces are known by addresses alone, and the others, if
# there were several objects, by their values.
cdef object TEXT_OPCODE = TEXT
cdef object BINARY_OPCODE = BINARY
cdef object WHOLE = FIRST | LAST


cdef inline bint is_whole_message(PyObject *piece) noexcept:
    """Whether it is for certain a piece that is one uncompressed message, as nearly all are."""
    cdef PyObject *opcode
    if not tuple_check(piece) or tuple_size(piece) != 3 or not bytes_check(tuple_item(piece, 1)):
        return False
    opcode = tuple_item(piece, 0)
    return (opcode == <PyObject *>BINARY_OPCODE or opcode == <PyObject *>TEXT_OPCODE) and (
        tuple_item(piece, 2) == <PyObject *>WHOLE
    )


cdef int check_piece(object piece) except -1:
    """Refuses what is no piece, and a piece that is no legal frame."""
    cdef object opcode, flags
    cdef Py_ssize_t length
    cdef int overflow
    cdef long number, bits
    if not PyTuple_CheckExact(piece) or PyTuple_GET_SIZE(piece) != 3:
        raise TypeError("a piece is a tuple of opcode, payload and flags")
    opcode = <object>PyTuple_GET_ITEM(piece, 0)
    flags = <object>PyTuple_GET_ITEM(piece, 2)
    if not PyLong_Check(opcode) or not PyBytes_Check(<object>PyTuple_GET_ITEM(piece, 1)) or not PyLong_Check(flags):
        raise TypeError("a piece is a tuple of an int, bytes and an int")
    number = PyLong_AsLongAndOverflow(opcode, &overflow)  # -1, which is no opcode, where it overflows
    bits = PyLong_AsLongAndOverflow(flags, &overflow)
    if number == CLOSE or number == PING or number == PONG:
        length = PyBytes_GET_SIZE(<object>PyTuple_GET_ITEM(piece, 1))
        if length > MAX_CONTROL:
            raise ValueError(f"a control frame carries at most 125 bytes, not {length}")
        if bits != (FIRST | LAST):
            raise ValueError("a control frame is always whole and never compressed")
    elif number != TEXT and number != BINARY:
        raise ValueError(f"{opcode} is not the opcode of a message")
    elif bits < 0 or bits > (FIRST | LAST | COMPRESSED):
        raise ValueError(f"{flags} is not a combination of flags")
    return 0


cdef bytes gather_keys(object mask, Py_ssize_t count):
    """One 4-byte key for each of `count` frames."""
    cdef bytes keys = PyBytes_FromStringAndSize(NULL, 4 * count)
    cdef Py_ssize_t i
    cdef object key
    for i in range(count):
        key = mask()
        if not PyBytes_Check(key) or PyBytes_GET_SIZE(key) != 4:
            raise ValueError("a masking key is 4 bytes")
        memcpy(PyBytes_AS_STRING(keys) + 4 * i, PyBytes_AS_STRING(key), 4)
    return keys


def encode_pieces(pieces not None, mask=None):
    """The frames of `pieces`, one each, in one bytes; `mask` gives each frame's 4-byte key (RFC 6455 section 5.3).

    A piece without FIRST becomes a CONTINUATION frame, LAST sets FIN, COMPRESSED sets RSV1 on a FIRST one.
    Raises ValueError for what is no legal frame by itself, TypeError for what is no piece.
    """
    # A tuple of our own: whatever runs while it is read (mask, a collection), neither it, nor the pieces, which are
    # tuples, nor their payloads, which are bytes, can change; what is measured below is what is written.
    cdef tuple batch = tuple(pieces)
    cdef Py_ssize_t i, length, size = 0, count = PyTuple_GET_SIZE(batch)
    cdef bint masked = mask is not None
    cdef bytes frames, keys = b""
    cdef PyObject *borrowed
    cdef object payload
    cdef uint8_t *target
    cdef long flags
    cdef int j, first
    for i in range(count):
        borrowed = PyTuple_GET_ITEM(batch, i)
        if not is_whole_message(borrowed):
            check_piece(<object>borrowed)
        length = bytes_size(tuple_item(borrowed, 1))
        length += header_size(length, masked)
        # One payload may stand in many pieces, so their sum may exceed what memory holds.
        if length > PY_SSIZE_T_MAX - size:
            raise OverflowError("the frames are larger than memory")
        size += length
    if masked:
        keys = gather_keys(mask, count)
    frames = PyBytes_FromStringAndSize(NULL, size)
    target = <uint8_t *>PyBytes_AS_STRING(frames)
    for i in range(count):
        borrowed = PyTuple_GET_ITEM(batch, i)
        payload = <object>tuple_item(borrowed, 1)
        length = PyBytes_GET_SIZE(payload)
        if is_whole_message(borrowed):
            first = FIN | (BINARY if tuple_item(borrowed, 0) == <PyObject *>BINARY_OPCODE else TEXT)
        else:
            flags = PyLong_AsLong(<object>tuple_item(borrowed, 2))
            first = 0
            if flags & FIRST:
                first = <int>PyLong_AsLong(<object>tuple_item(borrowed, 0))
                if flags & COMPRESSED:
                    first |= RSV1
            if flags & LAST:
                first |= FIN
        target[0] = <uint8_t>first
        if length < 126:
            target[1] = <uint8_t>(length | masked << 7)
            target += 2
        elif length < 0x10000:
            target[1] = 126 | masked << 7
            target[2] = <uint8_t>(length >> 8)
            target[3] = <uint8_t>(length & 0xFF)
            target += 4
        else:
            target[1] = 127 | masked << 7
            for j in range(8):
                target[2 + j] = <uint8_t>(<uint64_t>length >> (56 - 8 * j) & 0xFF)
            target += 10
        if masked:
            memcpy(target, PyBytes_AS_STRING(keys) + 4 * i, 4)
            apply_mask(target + 4, <const uint8_t *>PyBytes_AS_STRING(payload), length, target)
            target += 4
        else:
            memcpy(target, PyBytes_AS_STRING(payload), length)
        target += length
    return frames


def message_ends(list pieces not None, uint64_t begin, uint64_t overhead):
    """Where messages end in a stream that is at `begin`: 8 bytes each, in this machine's order; and where all ends.

    A message costs `overhead` bytes beyond its payload; the last one of the pieces may be unfinished. Raises TypeError
    for what is no piece, ValueError for what is no legal frame.
    """
    # Nothing of Python's runs while the list is read, so it cannot change.
    cdef Py_ssize_t i, number = 0, count = PyList_GET_SIZE(pieces)
    cdef uint64_t end = begin
    cdef bytes ends = PyBytes_FromStringAndSize(NULL, count * sizeof(uint64_t))
    cdef char *target = PyBytes_AS_STRING(ends)
    cdef PyObject *piece
    cdef bint is_whole
    for i in range(count):
        piece = PyList_GET_ITEM(pieces, i)
        is_whole = is_whole_message(piece)
        if not is_whole:
            check_piece(<object>piece)
        end += <uint64_t>bytes_size(tuple_item(piece, 1))
        if is_whole or PyLong_AsLong(<object>tuple_item(piece, 2)) & LAST:
            end += overhead
            memcpy(target + number * sizeof(uint64_t), &end, sizeof(uint64_t))
            number += 1
    return (ends if number == count else ends[:number * sizeof(uint64_t)]), end
