"""What RFC 6455 allows in a frame, against the RFC's own words written out anew; and what a peer is told."""

import pytest

from gateway.errors import ConnectionFault
from gateway.protocol.frame_rules import (
    LEGAL_FIRST_BYTES,
    MAX_LENGTH,
    control_length_fault,
    first_byte_fault,
    length_fault,
    masking_fault,
    size_fault,
    utf8_end_fault,
    utf8_fault,
)

DATA, CONTROL = {1, 2}, {8, 9, 10}


def is_legal(byte: int, *, compression: bool, in_message: bool) -> bool:
    """Sections 5.2, 5.4 and 5.5 of RFC 6455, and section 6.1 of RFC 7692."""
    fin, rsv1, rsv2, rsv3, opcode = byte >> 7, byte >> 6 & 1, byte >> 5 & 1, byte >> 4 & 1, byte & 15
    if rsv2 or rsv3 or opcode not in {0} | DATA | CONTROL:
        return False
    if rsv1 and not (compression and opcode in DATA):
        return False
    if opcode in CONTROL:
        return bool(fin)
    return (opcode == 0) == in_message


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("in_message", [False, True])
def test_every_first_byte_is_judged_by_the_rfc(compression: bool, in_message: bool) -> None:
    table = LEGAL_FIRST_BYTES[compression][in_message]
    for byte in range(256):
        legal = is_legal(byte, compression=compression, in_message=in_message)
        fault = first_byte_fault(byte, compression=compression, in_message=in_message)
        assert (fault is None) == legal, hex(byte)
        assert table[byte] == legal, hex(byte)


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (first_byte_fault(0xA1, compression=True, in_message=False), 1002, "reserved bit RSV2 or RSV3"),
        (first_byte_fault(0x83, compression=True, in_message=False), 1002, "reserved opcode 0x3"),
        (first_byte_fault(0xC1, compression=False, in_message=False), 1002, "no extension that uses it"),
        (first_byte_fault(0xC9, compression=True, in_message=False), 1002, "PING frame has RSV1 set"),
        (first_byte_fault(0xC0, compression=True, in_message=True), 1002, "CONTINUATION frame has RSV1 set"),
        (first_byte_fault(0x09, compression=True, in_message=False), 1002, "PING frame is fragmented"),
        (first_byte_fault(0x80, compression=True, in_message=False), 1002, "without a message to continue"),
        (first_byte_fault(0x81, compression=True, in_message=True), 1002, "TEXT frame inside an unfinished message"),
        (masking_fault(expected=True), 1002, "from a client is not masked"),
        (masking_fault(expected=False), 1002, "from a server is masked"),
        (control_length_fault(9), 1002, "PING frame announces more than 125 bytes"),
        (length_fault(MAX_LENGTH + 1), 1002, "most significant bit set"),
        (length_fault(100), 1002, "length of 100 bytes not in the shortest form"),
        (size_fault(1001, 1000), 1009, "message of 1001 bytes or more exceeds the limit of 1000 bytes"),
        (utf8_fault(17), 1007, "not UTF-8 at byte 17"),
        (utf8_end_fault(), 1007, "ends inside a UTF-8 character"),
    ],
)
def test_who_broke_a_rule_is_told_which_with_the_code_for_it(
    fault: ConnectionFault | None, code: int, text: str
) -> None:
    assert fault is not None
    assert (fault.close_code, text in str(fault)) == (code, True), str(fault)
    assert fault.close_reason == str(fault), "it fits into a Close"
