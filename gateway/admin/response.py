"""An answer of the admin listener, with the headers that every one of them carries."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Self

from gateway.protocol.http import Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer without its framing; a HEAD request gets it without the body."""

    status: HTTPStatus
    headers: Headers
    body: bytes

    @classmethod
    def make(cls, body: bytes, *, content_type: str, status: HTTPStatus = HTTPStatus.OK, headers: Headers = ()) -> Self:
        """An answer that no cache keeps and that a browser, if it is led here, makes nothing of."""
        safety = (
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", content_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        )
        return cls(status=status, headers=(*safety, *headers), body=body)

    @classmethod
    def of_json(cls, document: Mapping[str, object], *, status: HTTPStatus = HTTPStatus.OK) -> Self:
        """`document` as JSON."""
        body = json.dumps(document, ensure_ascii=False).encode() + b"\n"
        return cls.make(body, content_type="application/json", status=status)
