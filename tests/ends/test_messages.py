"""What may be sent, and with which codes."""

import pytest

from gateway.ends.messages import check_code, encoded


@pytest.mark.parametrize(
    ("message", "result"),
    [
        ("どやさ", (True, "どやさ".encode())),
        (b"\xff", (False, b"\xff")),
        (bytearray(b"a"), (False, b"a")),
        (memoryview(b"a"), (False, b"a")),
    ],
)
def test_text_and_bytes_of_every_kind_are_messages(message: str | bytes, result: tuple[bool, bytes]) -> None:
    assert encoded(message) == result


def test_nothing_else_is() -> None:
    with pytest.raises(TypeError, match="a message is str or bytes, not int"):
        encoded(1)  # type: ignore[arg-type]


def test_codes_have_bounds() -> None:
    for code in (1000, 4999):
        check_code(code)
    for code in (999, 5000):
        with pytest.raises(ValueError, match=f"code {code}, expected 1000 to 4999"):
            check_code(code)
