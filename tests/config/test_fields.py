"""Field types: what Python code and what a file may write."""

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.config.addresses import Endpoint as EndpointValue
from gateway.config.addresses import TcpAddress, UnixAddress
from gateway.config.fields import (
    Bind,
    Duration,
    Endpoint,
    FileMode,
    HeadSize,
    LocalPath,
    Secret,
    Size,
    Source,
    Token,
    TrustedPeer,
)

IN_FILE = Source(folder=Path("/etc/kakitome"))


def read(kind: Any, value: object, source: Source | None = IN_FILE) -> Any:
    return TypeAdapter(kind).validate_python(value, context=source)


def fault_of(kind: Any, value: object, source: Source | None = IN_FILE) -> str:
    with pytest.raises(ValidationError) as caught:
        read(kind, value, source)
    return caught.value.errors()[0]["msg"].removeprefix("Value error, ")


def test_a_file_writes_durations_with_their_unit_and_code_writes_seconds() -> None:
    assert read(Duration, "2m") == 120.0
    assert read(Duration, 2.5, None) == 2.5
    assert fault_of(Duration, 2) == "2 has no unit; write 2s for seconds, or 2ms, 2m, 2h"
    assert fault_of(Duration, 0.5) == "0.5 has no unit; write 0.5s for seconds, or 0.5ms, 0.5m, 0.5h"


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_code_cannot_write_a_duration_that_is_none(value: float) -> None:
    assert fault_of(Duration, value, None) == f"a duration must be longer than 0, not {value}"


@pytest.mark.parametrize("value", [True, None, [], {}])
def test_other_values_are_no_durations(value: object) -> None:
    assert fault_of(Duration, value) == "must be a duration such as 250ms, 5s, 2m or 1h30m"


def test_sizes_are_numbers_or_text() -> None:
    assert read(Size, 65536) == read(Size, "65536") == read(Size, "64KiB") == 65536


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "must be at least 1 byte, not 0"),
        (-5, "must be at least 1 byte, not -5"),
        ("0kB", "must be at least 1 byte, not 0"),
        (1.5, "must be a size such as 65536, 64KiB, 1MiB or 500kB"),
        (True, "must be a size such as 65536, 64KiB, 1MiB or 500kB"),
    ],
)
def test_sizes_are_at_least_a_byte(value: object, message: str) -> None:
    assert fault_of(Size, value) == message


def test_paths_in_a_file_start_at_its_folder() -> None:
    assert read(LocalPath, "tls.crt") == Path("/etc/kakitome/tls.crt")
    assert read(LocalPath, "/run/tls.crt") == Path("/run/tls.crt")
    assert read(LocalPath, "tls.crt", None) == Path("tls.crt")
    assert read(Bind, "unix:k.sock") == UnixAddress(path=Path("/etc/kakitome/k.sock"))
    assert read(Bind, "unix:k.sock", None) == UnixAddress(path=Path("k.sock"))


def test_addresses_are_taken_as_values_too() -> None:
    address = TcpAddress(host="::1", port=1)
    assert read(Bind, address) is address
    endpoint = EndpointValue(scheme="tcp", address=address)
    assert read(Endpoint, endpoint) is endpoint
    network = ipaddress.ip_network("10.0.0.0/8")
    assert read(TrustedPeer, network) is network


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Bind, "must be host:port, [v6]:port, unix:PATH or systemd:NAME"),
        (Endpoint, "must be tcp://host:port, tls://host:port or unix:///path"),
    ],
)
@pytest.mark.parametrize("value", [None, True, 1.5, ["a"]])
def test_addresses_are_text(kind: Any, message: str, value: object) -> None:
    assert fault_of(kind, value) == message


def test_a_bare_port_is_no_bind() -> None:
    assert fault_of(Bind, 8080).startswith("8080 is only a port; write 127.0.0.1:8080")


def test_networks_are_read_strictly() -> None:
    assert read(TrustedPeer, "fd00::/8") == ipaddress.ip_network("fd00::/8")
    assert read(TrustedPeer, "192.0.2.1") == ipaddress.ip_network("192.0.2.1/32")
    assert fault_of(TrustedPeer, "10.0.0.1/8") == '"10.0.0.1/8" has bits set beyond its mask; write 10.0.0.0/8'
    assert fault_of(TrustedPeer, "10.0.0.0/33") == (
        '"10.0.0.0/33" is not a network such as 10.0.0.0/8 or fd00::/8, nor unix'
    )


def test_a_token_has_no_spaces_or_separators() -> None:
    assert read(Token, "x-request-id") == "x-request-id"
    for value in ("", "a b", "a,b", "é"):
        assert "must be letters, digits" in fault_of(Token, value)


def test_a_secret_is_never_shown() -> None:
    secret = read(Secret, "hunter2")
    assert secret.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{secret!r} {secret}"


def test_a_secret_is_read_from_its_file_without_the_line_break_at_its_end(tmp_path: Path) -> None:
    source = Source(folder=tmp_path)
    (tmp_path / "token").write_text(" two words\r\n\n")
    assert read(Secret, "file:token", source).get_secret_value() == " two words"
    assert read(Secret, f"file:{tmp_path / 'token'}", None).get_secret_value() == " two words"
    assert source.files_read == {tmp_path / "token"}


def test_a_secret_whose_file_is_no_use_says_why(tmp_path: Path) -> None:
    source = Source(folder=tmp_path)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    assert fault_of(Secret, "file:empty", source) == f"the secret in {tmp_path}/empty is empty"
    assert fault_of(Secret, "file:binary", source) == f"the secret in {tmp_path}/binary is not UTF-8 text"
    assert fault_of(Secret, "file:none", source) == (
        f"cannot read the secret from {tmp_path}/none: No such file or directory"
    )
    assert fault_of(Secret, "", source) == "is empty; null means none"


def test_a_secret_stays_unread_when_files_are_not_to_be_read(tmp_path: Path) -> None:
    source = Source(folder=tmp_path, read_files=False)
    assert read(Secret, "file:none", source).get_secret_value() == "file:none"
    assert source.files_read == set()


@pytest.mark.parametrize(("text", "mode"), [("0660", 0o660), ("660", 0o660), ("0600", 0o600)])
def test_a_file_mode_is_octal_digits_in_quotes(text: str, mode: int) -> None:
    adapter: TypeAdapter[int] = TypeAdapter(FileMode)
    assert adapter.validate_python(text, context=IN_FILE) == mode
    assert adapter.dump_python(mode) == f"0{mode:o}"


def test_what_is_no_file_mode() -> None:
    for value in (660, 0o660, True, None):
        assert fault_of(FileMode, value) == 'must be the digits of a file mode in quotes, as in "0660"'
    for text in ("", "rw-rw----", "0o660", "668", "1777", "66"):
        assert fault_of(FileMode, text) == (
            f'"{text}" is no file mode such as "0660": three digits from 0 to 7, after a 0 or none'
        )


def test_peers_on_a_unix_socket_can_be_trusted() -> None:
    adapter: TypeAdapter[object] = TypeAdapter(TrustedPeer)
    assert adapter.validate_python("unix", context=IN_FILE) == "unix"
    assert adapter.dump_python("unix") == "unix"


@pytest.mark.parametrize("text", ["1023", "1025KiB"])
def test_the_limits_of_a_head_have_limits(text: str) -> None:
    assert fault_of(HeadSize, text) == f"must be from 1KiB to 1MiB, not {text if 'K' in text else text + 'B'}"
