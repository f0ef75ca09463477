"""Subprotocols and extensions as RFC 6455 writes them, and everything that is not written so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.negotiation import ExtensionOffer, format_extensions, parse_extensions, parse_subprotocols

TOKENS = st.text(alphabet="!#$%&'*+-.^_`|~0aZ", min_size=1, max_size=8)
OFFERS = st.builds(
    ExtensionOffer,
    name=TOKENS,
    parameters=st.lists(st.tuples(TOKENS, st.none() | TOKENS), max_size=4).map(tuple),
)


def offer(name: str, *parameters: tuple[str, str | None]) -> ExtensionOffer:
    """One extension as it is offered."""
    return ExtensionOffer(name=name, parameters=parameters)


@pytest.mark.parametrize(
    ("values", "subprotocols"),
    [
        ([], ()),
        (["chat"], ("chat",)),
        (["chat, superchat"], ("chat", "superchat")),
        (["chat", "superchat,v1"], ("chat", "superchat", "v1")),
        ([" , chat ,\t,superchat, "], ("chat", "superchat")),
        (["Chat, chat"], ("Chat", "chat")),
        (["v12.stomp, kakitome.v1"], ("v12.stomp", "kakitome.v1")),
    ],
)
def test_subprotocols_in_the_order_offered(values: list[str], subprotocols: tuple[str, ...]) -> None:
    assert parse_subprotocols(values) == subprotocols


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([""], "names none"),
        ([", ,"], "names none"),
        (["chat, chat"], "more than once"),
        (["chat", "chat"], "more than once"),
        (["a b"], "comma instead of 'b'"),
        (["a;b"], "comma instead of ';b'"),
        (["a=b"], "comma"),
        (['"chat"'], "a subprotocol instead of"),
        (["書"], "a subprotocol instead of"),
        (["caf\xe9"], "comma"),
        (["a/b"], "comma"),
    ],
)
def test_subprotocols_that_cannot_be_read(values: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_subprotocols(values)


@pytest.mark.parametrize(
    ("values", "extensions"),
    [
        ([], ()),
        (["foo"], (offer("foo"),)),
        # RFC 6455 section 9.1, the examples.
        (["foo", "bar; baz=2"], (offer("foo"), offer("bar", ("baz", "2")))),
        (["foo, bar; baz=2"], (offer("foo"), offer("bar", ("baz", "2")))),
        (["deflate-stream"], (offer("deflate-stream"),)),
        (
            ["mux; max-channels=4; flow-control, deflate-stream"],
            (offer("mux", ("max-channels", "4"), ("flow-control", None)), offer("deflate-stream")),
        ),
        (["private-extension"], (offer("private-extension"),)),
        # RFC 7692 section 7.1, the examples.
        (
            ['permessage-deflate; client_max_window_bits; server_max_window_bits="10"'],
            (offer("permessage-deflate", ("client_max_window_bits", None), ("server_max_window_bits", "10")),),
        ),
        (["a;b;b=1;b=1"], (offer("a", ("b", None), ("b", "1"), ("b", "1")),)),
        ([' a\t;\tb = "\\c\\d" , '], (offer("a", ("b", "cd")),)),
        ([",,a,,b,,"], (offer("a"), offer("b"))),
    ],
)
def test_extensions_in_the_order_offered(values: list[str], extensions: tuple[ExtensionOffer, ...]) -> None:
    assert parse_extensions(values) == extensions


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "names none"),
        (",", "names none"),
        (";a", "an extension instead of ';a'"),
        ("a;", "a parameter's name instead of ''"),
        ("a;;b", "a parameter's name"),
        ("a;=1", "a parameter's name"),
        ("a;b=", "a parameter's value"),
        ("a;b=;c", "a parameter's value"),
        ("a;b=1=2", "comma"),
        ("a;b c", "comma"),
        ("a b", "comma"),
        ('a;b="', "a parameter's value"),
        ('a;b="1', "a parameter's value"),
        ('a;b="1\\"', "a parameter's value"),
        ('a;b="1"2', "comma"),
        ('a;b=""', "not a token"),
        ('a;b="1 2"', "not a token"),
        ('a;b="1\\,2"', "not a token"),
        ('"a"', "an extension"),
        ("a;b=caf\xe9", "comma"),
        ("a;b=(1)", "a parameter's value"),
    ],
)
def test_extensions_that_cannot_be_read(value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_extensions([value])


@given(st.lists(OFFERS, min_size=1, max_size=5))
def test_what_is_formatted_can_be_parsed(offers: list[ExtensionOffer]) -> None:
    assert parse_extensions([format_extensions(offers)]) == tuple(offers)


@given(st.text(alphabet='ab;,= \t"\\(', max_size=30))
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    try:
        offers = parse_extensions([text])
    except ValueError:
        return
    assert parse_extensions([format_extensions(offers)]) == offers
