"""Faults by name: what each is told with, whose it is, and that a reason fits where it goes."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.errors import (
    MAX_CLOSE_REASON_BYTES,
    Blame,
    ConfigError,
    ConnectionFault,
    KakitomeError,
    Problem,
    ProtocolViolation,
    fitting_reason,
)


def named_faults(base: type[KakitomeError] = KakitomeError) -> Iterator[type[KakitomeError]]:
    for fault in base.__subclasses__():
        if fault.__module__ == errors.__name__:
            yield fault
            yield from named_faults(fault)


FAULTS = sorted(set(named_faults()), key=lambda fault: fault.__name__)


@given(st.text(st.characters(), max_size=200), st.integers(0, 200))
def test_a_reason_fits_and_is_a_beginning_of_what_was_meant(text: str, most: int) -> None:
    reason = fitting_reason(text, most)
    assert len(reason.encode()) <= most
    assert text.startswith(reason)
    rest = text[len(reason) :]
    assert not rest or len((reason + rest[0]).encode()) > most, "no more of it would have fitted"


@pytest.mark.parametrize(("text", "sent"), [("a\ud83d\ude00b", "a😀b"), ("a\ud83db", "a\ufffdb"), ("\udcff", "\ufffd")])
def test_halves_of_a_character_are_joined_or_replaced_as_browsers_do(text: str, sent: str) -> None:
    assert fitting_reason(text) == sent


def test_a_close_carries_as_much_of_the_text_as_it_has_room_for() -> None:
    fault = ProtocolViolation("é" * 100)
    assert fault.close_reason == "é" * (MAX_CLOSE_REASON_BYTES // 2)
    assert str(fault) == "é" * 100, "the log has all of it"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_has_a_label_fit_for_a_metric_and_somebody_to_blame(fault: type[KakitomeError]) -> None:
    assert fault.__doc__
    assert isinstance(fault.blame, Blame)
    # HandshakeRefused has the label that it is raised with.
    assert re.fullmatch(r"[a-z][a-z0-9_]*", fault.reason)


def test_every_end_of_a_connection_has_a_code_that_a_close_may_carry() -> None:
    """RFC 6455 section 7.4.1; 1005, 1006 and 1015 are never sent."""
    codes = {fault.__name__: fault.close_code for fault in FAULTS if issubclass(fault, ConnectionFault)}
    assert set(codes.values()) == {1002, 1007, 1008, 1009, 1011, 1013, 1014}
    blames = {fault: fault.blame for fault in FAULTS if issubclass(fault, ConnectionFault)}
    assert all(fault.close_code == 1014 for fault, blame in blames.items() if blame is Blame.BACKEND)
    assert all(fault.close_code != 1014 for fault, blame in blames.items() if blame is Blame.CLIENT)


def test_faults_of_a_configuration_are_told_as_an_editor_reads_them() -> None:
    problems = [
        Problem(path="routes[0].name", line=3, message="is required"),
        Problem(path="", line=None, message="is not there"),
    ]
    fault = ConfigError(problems, source="kakitome.yaml")
    assert str(fault) == "kakitome.yaml:3: routes[0].name: is required\nkakitome.yaml: is not there"
    assert fault.problems == tuple(problems)
