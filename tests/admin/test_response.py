"""Answers of the admin listener: what each of them carries, whatever it says."""

import json
from http import HTTPStatus

from gateway.admin.response import Response


def test_no_cache_keeps_it_and_no_page_makes_anything_of_it() -> None:
    for response in (Response.make(b"x", content_type="text/plain"), Response.of_json({})):
        headers = dict(response.headers)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Date"].endswith(" GMT")


def test_what_an_answer_adds_stands_behind_what_all_have() -> None:
    response = Response.make(b"x", content_type="text/plain", status=HTTPStatus.CONFLICT, headers=(("Allow", "GET"),))
    assert response.status is HTTPStatus.CONFLICT
    assert response.headers[-1] == ("Allow", "GET")
    assert response.body == b"x"


def test_json_is_text_as_it_is_with_an_end_of_line() -> None:
    response = Response.of_json({"name": "書留", "n": 1}, status=HTTPStatus.NOT_FOUND)
    assert response.body.endswith(b"\n")
    assert "書留".encode() in response.body
    assert json.loads(response.body) == {"name": "書留", "n": 1}
    assert dict(response.headers)["Content-Type"] == "application/json"
    assert response.status is HTTPStatus.NOT_FOUND
