"""Finding a credential in a request, and striking it from what goes on."""

import base64
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import HandshakeRefused
from gateway.policy.credentials import Credential, Shown, take_credential
from gateway.protocol.http import Headers, Request

KUBERNETES = "base64url.bearer.authorization.k8s.io."


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Where is looked."""

    header: bool = True
    cookie: str | None = None
    query: str | None = None
    subprotocol: str | None = None


EVERYWHERE = Looked(cookie="session", query="token", subprotocol=KUBERNETES)


def taken(*headers: tuple[str, str], target: str = "/chat", places: Looked = EVERYWHERE) -> Shown:
    return take_credential(Request.parse(method="GET", target=target, headers=headers), places)


def refusal(*headers: tuple[str, str], target: str = "/chat", places: Looked = EVERYWHERE) -> str:
    with pytest.raises(HandshakeRefused) as caught:
        taken(*headers, target=target, places=places)
    assert caught.value.status == 400
    return str(caught.value)


def kubernetes(value: str) -> str:
    return KUBERNETES + base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")


def left(shown: Shown) -> Headers:
    return shown.request.headers


# --- found ----------------------------------------------------------------------------------------------------------


def test_a_request_without_one_goes_on_as_it_came() -> None:
    headers = (("host", "h"), ("cookie", "theme=dark"), ("sec-websocket-protocol", "chat, mqtt"))
    shown = taken(*headers, target="/chat?room=1&x=")
    assert shown.credential is None
    assert shown.request == Request.parse(method="GET", target="/chat?room=1&x=", headers=headers)


@pytest.mark.parametrize("value", ["Bearer abc.def", "bearer abc.def", "BEARER   abc.def", " Bearer abc.def "])
def test_bearer_token_in_the_header(value: str) -> None:
    shown = taken(("authorization", value), ("host", "h"))
    assert shown.credential == Credential(value="abc.def")
    assert left(shown) == (("host", "h"),)


def test_another_scheme_is_not_ours_and_stays() -> None:
    shown = taken(("authorization", "Basic dTpw"))
    assert shown.credential is None
    assert left(shown) == (("authorization", "Basic dTpw"),)


@pytest.mark.parametrize("content", ["abc", '"abc"'])
def test_cookie(content: str) -> None:
    shown = taken(("cookie", f"theme=dark; session={content}; sessions=other"))
    assert shown.credential == Credential(value="abc", from_cookie=True)
    assert left(shown) == (("cookie", "theme=dark; sessions=other"),)


def test_the_only_cookie_leaves_no_header_behind() -> None:
    assert left(taken(("cookie", "session=abc"))) == ()


@pytest.mark.parametrize(
    "query", ["token=abc&room=1", "room=1&token=abc", "room=1&to%6ben=abc", "room=1&%74oken=ab%63"]
)
def test_query(query: str) -> None:
    shown = taken(target=f"/chat?{query}")
    assert shown.credential == Credential(value="abc")
    assert (shown.request.target, shown.request.query) == ("/chat?room=1", "room=1")


def test_the_only_parameter_leaves_no_question_mark() -> None:
    assert taken(target="/chat?token=abc").request.target == "/chat"


def test_subprotocol_in_the_form_of_kubernetes() -> None:
    shown = taken(("sec-websocket-protocol", f"{kubernetes('abc.def~')}, v4.channel.k8s.io"))
    assert shown.credential == Credential(value="abc.def~")
    assert left(shown) == (("sec-websocket-protocol", "v4.channel.k8s.io"),)


def test_subprotocols_in_several_lines() -> None:
    shown = taken(("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", kubernetes("abc")))
    assert shown.credential == Credential(value="abc")
    assert left(shown) == (("sec-websocket-protocol", "chat"),)


def test_the_same_one_in_two_places_is_one_and_struck_from_both() -> None:
    shown = taken(("authorization", "Bearer abc"), ("cookie", "session=abc"), target="/chat?token=abc")
    assert shown.credential == Credential(value="abc")
    assert left(shown) == ()
    assert shown.request.target == "/chat"


def test_places_that_are_not_looked_at_are_left_alone() -> None:
    headers = (("authorization", "Bearer abc"), ("cookie", "session=abc"))
    shown = taken(*headers, target="/chat?token=abc", places=Looked(header=False))
    assert shown.credential is None
    assert left(shown) == headers
    assert shown.request.query == "token=abc"


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "target", "place"),
    [
        ((("authorization", "Bearer abc"), ("authorization", "Bearer abc")), "/", "the Authorization header"),
        ((("cookie", "session=abc; session=def"),), "/", "a cookie"),
        ((("cookie", "session=abc"), ("cookie", "session=abc")), "/", "a cookie"),
        ((), "/?token=abc&token=def", "the query"),
        ((), "/?token=abc&t%6Fken=def", "the query"),
        ((("sec-websocket-protocol", f"{kubernetes('abc')}, {kubernetes('def')}"),), "/", "a subprotocol"),
    ],
)
def test_one_place_filled_twice(headers: Headers, target: str, place: str) -> None:
    assert refusal(*headers, target=target) == f"the request has 2 credentials in {place}, and must have one"


def test_two_places_that_differ() -> None:
    text = refusal(("authorization", "Bearer abc"), target="/?token=def")
    assert text == "the request has different credentials in the Authorization header and the query, and must have one"


@pytest.mark.parametrize(
    ("headers", "target"),
    [
        ((("authorization", "Bearer"),), "/"),
        ((("authorization", "Bearer  "),), "/"),
        ((("authorization", "Bearer abc def"),), "/"),
        ((("authorization", "Bearer abc, Bearer def"),), "/"),
        ((("cookie", "session="),), "/"),
        ((("cookie", "session=a b"),), "/"),
        ((), "/?token"),
        ((), "/?token="),
        ((), "/?token=a%00b"),
        ((), "/?token=a%0d%0ab"),
        ((("sec-websocket-protocol", KUBERNETES),), "/"),
        ((("sec-websocket-protocol", KUBERNETES + "YWJj="),), "/"),
        ((("sec-websocket-protocol", KUBERNETES + "a"),), "/"),
        ((("sec-websocket-protocol", KUBERNETES + "_____w"),), "/"),
    ],
)
def test_one_that_cannot_be_read(headers: Headers, target: str) -> None:
    assert "is empty or has characters that no credential has" in refusal(*headers, target=target)


def test_a_credential_is_in_no_repr_and_no_error() -> None:
    assert "abc" not in repr(Credential(value="abc"))
    assert "secret" not in refusal(("authorization", "Bearer secret1"), target="/?token=secret2")


# --- whatever comes -------------------------------------------------------------------------------------------------

_VALUES = st.text(alphabet="abcXYZ019._~+/=-", min_size=12, max_size=30)


@given(
    value=_VALUES,
    before=st.lists(st.sampled_from(["a=1", "b=2", "c", ""]), max_size=3),
    after=st.lists(st.sampled_from(["a=1", "b=2", "c", ""]), max_size=3),
)
def test_what_was_found_is_nowhere_in_what_goes_on(value: str, before: list[str], after: list[str]) -> None:
    query = "&".join([*before, f"token={value.replace('+', '%2B')}", *after])
    cookies = "; ".join([*before, f"session={value}", *after])
    shown = taken(("authorization", f"Bearer {value}"), ("cookie", cookies), target=f"/chat?{query}")
    assert shown.credential is not None
    assert shown.credential.value == value
    assert value not in str(shown.request)
    assert shown.request == Request.parse(method="GET", target=shown.request.target, headers=shown.request.headers)
