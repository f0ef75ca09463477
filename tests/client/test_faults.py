"""The words for what went wrong."""

import errno
import ssl

import pytest

from gateway.client.faults import system_text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ECONNREFUSED, "[Errno 111] Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        # OpenSSL's numbers are none of the system's: 6 is ENXIO, "No such device or address".
        (ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF) (_ssl.c:992)"), "the server closed the"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol (_ssl.c:992)"), "the server closed the connection"),
        (ssl.SSLError(1, "[SSL] internal error (_ssl.c:992)"), "[ssl] internal error"),
        (ssl.SSLError(5, "Some I/O error occurred"), "some i/o error"),
        (
            ExceptionGroup("all", [OSError(errno.ECONNREFUSED, "x"), OSError(errno.ECONNREFUSED, "y")]),
            "Connection refu",
        ),
        (OSError("no number"), "no number"),
        (OSError(), "OSError"),
    ],
)
def test_an_error_is_told_in_its_own_layers_words(error: BaseException, text: str) -> None:
    assert system_text(error).startswith(text)
