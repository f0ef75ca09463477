"""Conditions, ranges and types, as RFC 9110 has them."""

from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.http import Request
from gateway.transport.representation import FileFacts, Reply, choose, content_type

MODIFIED = datetime(2026, 3, 1, 12, 30, 15, 500_000, tzinfo=UTC)
FACTS = FileFacts(
    size=1000,
    modified_nanoseconds=int(MODIFIED.timestamp() * 1_000_000) * 1000,
    content_type="text/html; charset=utf-8",
)
SAME_DATE = "Sun, 01 Mar 2026 12:30:15 GMT"
EARLIER = "Sun, 01 Mar 2026 12:30:14 GMT"
LATER = "Sun, 01 Mar 2026 12:30:16 GMT"


def _reply(facts: FileFacts, method: str = "GET", **headers: str) -> Reply:
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return choose(Request.parse(method=method, target="/page.html", headers=fields), facts)


def _choose(method: str = "GET", **headers: str) -> Reply:
    return _reply(FACTS, method, **headers)


def _field(reply: Reply, name: str) -> str | None:
    return dict(reply.headers).get(name)


def test_a_plain_request_gets_the_whole_file_with_its_validators() -> None:
    reply = _choose()
    assert (reply.status, reply.content_length, reply.start, reply.end) == (HTTPStatus.OK, 1000, 0, 1000)
    assert dict(reply.headers) == {
        "Content-Type": "text/html; charset=utf-8",
        "Accept-Ranges": "bytes",
        "ETag": FACTS.entity_tag,
        "Last-Modified": SAME_DATE,
        "Cache-Control": "no-cache",
    }


def test_head_promises_the_length_and_has_no_body() -> None:
    reply = _choose(method="HEAD", range="bytes=0-9")
    assert (reply.status, reply.content_length, reply.start, reply.end) == (HTTPStatus.OK, 1000, 0, 0)


def test_the_entity_tag_changes_with_size_and_with_time() -> None:
    longer = FileFacts(size=1001, modified_nanoseconds=FACTS.modified_nanoseconds, content_type="")
    later = FileFacts(size=1000, modified_nanoseconds=FACTS.modified_nanoseconds + 1, content_type="")
    assert len({FACTS.entity_tag, longer.entity_tag, later.entity_tag}) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"if_none_match": FACTS.entity_tag},
        {"if_none_match": f"W/{FACTS.entity_tag}"},
        {"if_none_match": f'"other", {FACTS.entity_tag} , "third"'},
        {"if_none_match": "*"},
        {"if_none_match": FACTS.entity_tag, "if_modified_since": EARLIER},
        {"if_modified_since": SAME_DATE},
        {"if_modified_since": LATER},
        {"if_modified_since": "Sunday, 01-Mar-26 12:30:15 GMT"},
        {"if_modified_since": SAME_DATE, "range": "bytes=0-9"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_copy_that_is_still_right_is_not_sent_again(method: str, headers: dict[str, str]) -> None:
    reply = _choose(method=method, **headers)
    assert (reply.status, reply.content_length, reply.end) == (HTTPStatus.NOT_MODIFIED, None, 0)
    assert _field(reply, "ETag") == FACTS.entity_tag
    assert _field(reply, "Cache-Control") == "no-cache"
    assert _field(reply, "Content-Type") is None


@pytest.mark.parametrize(
    "headers",
    [
        {"if_none_match": '"other"'},
        {"if_none_match": FACTS.entity_tag.strip('"')},
        {"if_none_match": ""},
        # RFC 9110 section 13.1.3: with If-None-Match, If-Modified-Since is ignored.
        {"if_none_match": '"other"', "if_modified_since": LATER},
        {"if_modified_since": EARLIER},
        {"if_modified_since": "yesterday"},
        {"if_modified_since": ""},
    ],
)
def test_a_copy_that_is_not_right_is_sent_anew(headers: dict[str, str]) -> None:
    assert _choose(**headers).status == HTTPStatus.OK


@pytest.mark.parametrize(
    ("given", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-499", 0, 500),
        ("bytes=500-", 500, 1000),
        ("bytes=999-5000", 999, 1000),
        ("bytes=-100", 900, 1000),
        ("bytes=-5000", 0, 1000),
        ("Bytes= 10-19 ", 10, 20),
    ],
)
def test_one_range_is_sent_as_partial_content(given: str, start: int, end: int) -> None:
    reply = _choose(range=given)
    assert (reply.status, reply.start, reply.end) == (HTTPStatus.PARTIAL_CONTENT, start, end)
    assert reply.content_length == end - start
    assert _field(reply, "Content-Range") == f"bytes {start}-{end - 1}/1000"
    assert _field(reply, "Content-Type") == FACTS.content_type


@pytest.mark.parametrize("given", ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=9999999999999999999-"])
def test_a_range_beyond_the_file_cannot_be_satisfied(given: str) -> None:
    reply = _choose(range=given)
    assert (reply.status, reply.content_length, reply.start, reply.end) == (416, 0, 0, 0)
    assert _field(reply, "Content-Range") == "bytes */1000"


@pytest.mark.parametrize("given", ["bytes=-1", "bytes=0-"])
def test_no_range_of_an_empty_file_can_be_satisfied(given: str) -> None:
    empty = FileFacts(size=0, modified_nanoseconds=0, content_type="text/plain")
    assert _reply(empty, range=given).status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


@pytest.mark.parametrize(
    "given",
    [
        "bytes=5-4",
        "bytes=0-1,5-6",
        "lines=0-1",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=0x1-2",
        "0-1",
        "",
        "bytes=٣-٤",
    ],
)
def test_a_range_that_is_none_or_several_gets_the_whole_file(given: str) -> None:
    reply = _choose(range=given)
    assert (reply.status, reply.start, reply.end) == (HTTPStatus.OK, 0, 1000)


@pytest.mark.parametrize("condition", [FACTS.entity_tag, SAME_DATE])
def test_a_range_of_an_unchanged_file_is_sent(condition: str) -> None:
    assert _choose(range="bytes=0-9", if_range=condition).status == HTTPStatus.PARTIAL_CONTENT


@pytest.mark.parametrize("condition", ['"other"', f"W/{FACTS.entity_tag}", EARLIER, LATER, "nonsense", ""])
def test_a_file_that_changed_is_sent_whole_instead_of_a_range(condition: str) -> None:
    reply = _choose(range="bytes=0-9", if_range=condition)
    assert (reply.status, reply.end) == (HTTPStatus.OK, 1000)


@given(st.integers(0, 50), st.integers(0, 60), st.one_of(st.none(), st.integers(0, 60)))
def test_a_range_is_the_slice_that_it_means(size: int, first: int, last: int | None) -> None:
    facts = FileFacts(size=size, modified_nanoseconds=0, content_type="text/plain")
    content = bytes(range(size))
    reply = _reply(facts, range=f"bytes={first}-{'' if last is None else last}")
    expected = content[first : None if last is None else last + 1]
    if last is not None and last < first:
        assert reply.status == HTTPStatus.OK
    elif not expected:
        assert reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    else:
        assert content[reply.start : reply.end] == expected


_CONDITIONS = st.one_of(
    st.text(st.characters(max_codepoint=255)),
    st.sampled_from([SAME_DATE, EARLIER, FACTS.entity_tag, "*"]),
    st.datetimes().map(lambda moment: format_datetime(moment)),
    st.from_regex(r"\A\w{3}, \d{1,3} \w{3} \d{1,6} \d\d:\d\d:\d\d [-+]?\d{0,6}\Z"),
)


@given(_CONDITIONS, _CONDITIONS, _CONDITIONS, st.one_of(_CONDITIONS, st.from_regex(r"\Abytes=\d{0,25}-\d{0,25}\Z")))
def test_whatever_the_headers_say_the_reply_lies_within_the_file(a: str, b: str, c: str, d: str) -> None:
    reply = _choose(if_none_match=a, if_modified_since=b, if_range=c, range=d)
    assert reply.status in (200, 206, 304, 416)
    assert 0 <= reply.start <= reply.end <= FACTS.size
    assert (reply.content_length or 0) == reply.end - reply.start


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("a/b/app.js", "text/javascript; charset=utf-8"),
        ("app.mjs", "text/javascript; charset=utf-8"),
        ("style.CSS", "text/css; charset=utf-8"),
        ("notes.txt", "text/plain; charset=utf-8"),
        ("types.d.ts", "text/plain; charset=utf-8"),
        ("data.json", "application/json"),
        ("app.js.map", "application/json"),
        ("codec.wasm", "application/wasm"),
        ("logo.svg", "image/svg+xml"),
        ("logo.png", "image/png"),
        ("font.woff2", "font/woff2"),
        ("bell.mp3", "audio/mpeg"),
        ("site.webmanifest", "application/manifest+json"),
        ("favicon.ico", "image/vnd.microsoft.icon"),
        ("dump.tar.gz", "application/gzip"),
        ("README", "application/octet-stream"),
        ("strange.\u66f8\u7559", "application/octet-stream"),
        ("html", "application/octet-stream"),
    ],
)
def test_types_are_those_that_browsers_insist_on(name: str, expected: str) -> None:
    assert content_type(name) == expected
