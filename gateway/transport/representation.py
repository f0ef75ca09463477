"""Which part of a file answers a request, and the headers that say so: conditions, ranges, types (RFC 9110).

Invariant: it does no I/O. Whatever condition or range cannot be understood is as if it were not there: the answer is
then the whole file, which is never wrong.
"""

import mimetypes
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from gateway.protocol.http import Headers, Request

_TYPES: Final = {
    "css": "text/css",
    "htm": "text/html",
    "html": "text/html",
    "js": "text/javascript",
    "json": "application/json",
    "map": "application/json",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "svg": "image/svg+xml",
    "ts": "text/plain",
    "txt": "text/plain",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
    "woff": "font/woff",
    "woff2": "font/woff2",
}
"""What browsers insist on under `nosniff`, or what Python versions disagree on."""

_KNOWN_TYPES: Final = mimetypes.MimeTypes(filenames=())
"""Python's own table, without the machine's: a file has the same type everywhere."""

_BINARY: Final = "application/octet-stream"

_ENTITY_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_SINGLE_RANGE: Final = re.compile(r"bytes=[ \t]*(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))[ \t]*", re.IGNORECASE | re.ASCII)

_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What is known of an open file."""

    size: int
    modified_nanoseconds: int
    """Since the epoch."""
    content_type: str

    @property
    def entity_tag(self) -> str:
        """The strong validator: it changes whenever the content does, as far as the file system tells."""
        return f'"{self.modified_nanoseconds:x}-{self.size:x}"'

    @property
    def last_modified_seconds(self) -> int:
        """Since the epoch, as HTTP dates have no fractions."""
        return self.modified_nanoseconds // _NANOSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer: a head, and the bytes `start` to `end` of the file as its body."""

    status: HTTPStatus
    headers: Headers
    content_length: int | None
    """What the head promises: also where the body is left out, as for HEAD. None for a 304."""
    start: int = 0
    end: int = 0


def content_type(name: str) -> str:
    """The media type by the name's ending; text is UTF-8, what is not known is opaque bytes."""
    _, dot, ending = name.rpartition(".")
    media_type = _TYPES.get(ending.lower()) if dot else None
    if media_type is None:
        guessed, encoding = _KNOWN_TYPES.guess_type(name)
        # A .tar.gz is a compressed file to keep, not a tar for the browser to unpack.
        media_type = f"application/{encoding}" if encoding else guessed or _BINARY
    return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type


def choose(request: Request, facts: FileFacts) -> Reply:
    """The reply to a GET or HEAD `request` for a file, conditions first, then ranges (RFC 9110 section 13.2.2)."""
    validators = (
        ("ETag", facts.entity_tag),
        ("Last-Modified", formatdate(facts.last_modified_seconds, usegmt=True)),
        # Kept, but asked about each time: a new release is seen at once and costs one short answer otherwise.
        ("Cache-Control", "no-cache"),
    )
    if _is_fresh(request, facts):
        return Reply(status=HTTPStatus.NOT_MODIFIED, headers=validators, content_length=None)
    described = (("Content-Type", facts.content_type), ("Accept-Ranges", "bytes"), *validators)
    # RFC 9110 section 14.2: a range has a meaning for GET only.
    if request.method == "HEAD":
        return Reply(status=HTTPStatus.OK, headers=described, content_length=facts.size)
    wanted = _range(request, facts)
    if wanted is None:
        return Reply(status=HTTPStatus.OK, headers=described, content_length=facts.size, end=facts.size)
    start, end = wanted
    if start >= end:
        unsatisfied = (("Content-Range", f"bytes */{facts.size}"), *validators)
        return Reply(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=unsatisfied, content_length=0)
    partial = (("Content-Range", f"bytes {start}-{end - 1}/{facts.size}"), *described)
    return Reply(status=HTTPStatus.PARTIAL_CONTENT, headers=partial, content_length=end - start, start=start, end=end)


def _is_fresh(request: Request, facts: FileFacts) -> bool:
    """Whether the client's copy is still right. RFC 9110 section 13.1.3: If-None-Match, where given, decides alone."""
    tags = request.get("if-none-match")
    if tags is not None:
        # Compared weakly (RFC 9110 section 13.1.2): W/ makes no difference.
        return tags.strip() == "*" or facts.entity_tag in _ENTITY_TAG.findall(tags)
    since = _parse_date(request.get("if-modified-since"))
    return since is not None and facts.last_modified_seconds <= since


def _range(request: Request, facts: FileFacts) -> tuple[int, int] | None:
    """The one range asked for as start and end, empty if it lies beyond the file; None: send all of it."""
    ranges = request.get("range")
    match = None if ranges is None else _SINGLE_RANGE.fullmatch(ranges)
    if match is None or not _range_still_applies(request, facts):
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(0, facts.size - int(suffix)), facts.size
    if last and int(last) < int(first):
        return None  # not a valid range (RFC 9110 section 14.1.1)
    return int(first), min(int(last) + 1, facts.size) if last else facts.size


def _range_still_applies(request: Request, facts: FileFacts) -> bool:
    """RFC 9110 section 13.1.5: a part of a file that has changed since must not be joined to the client's old part."""
    condition = request.get("if-range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == facts.entity_tag
    return _parse_date(condition) == facts.last_modified_seconds


def _parse_date(text: str | None) -> int | None:
    """Seconds since the epoch; None for what is absent or no date."""
    if text is None:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
