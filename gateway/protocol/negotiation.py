"""What both sides of a handshake offer each other and choose: subprotocols and extensions (RFC 6455 sections 9, 11.3).

Invariant: every name and value that leaves a parser is a token (RFC 9110 section 5.6.2), so that it can be written into
a header as it is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.protocol.http import shown

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionOffer:
    """One element of Sec-WebSocket-Extensions, offered or accepted: a name and its parameters as written.

    A parameter without a value has None. Names and values are tokens; a quoted value stands here without its quotes.
    """

    name: str
    parameters: tuple[tuple[str, str | None], ...] = ()

    def __str__(self) -> str:
        parameters = (name if value is None else f"{name}={value}" for name, value in self.parameters)
        return "; ".join((self.name, *parameters))


class _ListParser:
    """Reads `1#element` lists (RFC 9110 section 5.6.1) of tokens, with or without parameters, left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def subprotocols(self) -> list[str]:
        found = []
        while self._more_elements():
            found.append(self._token("a subprotocol"))
            self._end_element()
        return found

    def extensions(self) -> list[ExtensionOffer]:
        found = []
        while self._more_elements():
            name = self._token("an extension")
            parameters = []
            while self._skip(";"):
                parameters.append((self._token("a parameter's name"), self._value() if self._skip("=") else None))
            found.append(ExtensionOffer(name=name, parameters=tuple(parameters)))
            self._end_element()
        return found

    def _more_elements(self) -> bool:
        # RFC 9110 section 5.6.1.2: empty elements are skipped.
        while self._skip(","):
            pass
        return self._at < len(self._text)

    def _end_element(self) -> None:
        if self._at < len(self._text) and self._text[self._at] != ",":
            raise ValueError(f"expected a comma instead of {shown(self._text[self._at :])}")

    def _space(self) -> None:
        while self._text[self._at : self._at + 1] in (" ", "\t"):
            self._at += 1

    def _skip(self, character: str) -> bool:
        self._space()
        if not self._text.startswith(character, self._at):
            return False
        self._at += 1
        self._space()
        return True

    def _token(self, what: str) -> str:
        token = _TOKEN.match(self._text, self._at)
        if token is None:
            raise ValueError(f"expected {what} instead of {shown(self._text[self._at :])}")
        self._at = token.end()
        self._space()
        return token[0]

    def _value(self) -> str:
        quoted = _QUOTED.match(self._text, self._at)
        if quoted is None:
            return self._token("a parameter's value")
        self._at = quoted.end()
        self._space()
        value = _ESCAPED.sub(r"\1", quoted[1])
        # RFC 6455 section 9.1: after unescaping, the value must conform to the token grammar.
        if not _TOKEN.fullmatch(value):
            raise ValueError(f"the quoted value {shown(value)} is not a token")
        return value


def parse_subprotocols(values: Sequence[str]) -> tuple[str, ...]:
    """The subprotocols of all Sec-WebSocket-Protocol lines, in order. Raises ValueError, saying what is wrong."""
    found: dict[str, None] = {}
    for name in (name for value in values for name in _ListParser(value).subprotocols()):
        # RFC 6455 section 4.1, item 10: "MUST all be unique strings".
        if name in found:
            raise ValueError(f"{shown(name)} stands there more than once")
        found[name] = None
    if values and not found:
        raise ValueError("it names none")
    return tuple(found)


def parse_extensions(values: Sequence[str]) -> tuple[ExtensionOffer, ...]:
    """The extensions of all Sec-WebSocket-Extensions lines, in order. Raises ValueError, saying what is wrong."""
    found = [offer for value in values for offer in _ListParser(value).extensions()]
    if values and not found:
        raise ValueError("it names none")
    return tuple(found)


def format_extensions(extensions: Sequence[ExtensionOffer]) -> str:
    """The value of one Sec-WebSocket-Extensions line."""
    return ", ".join(map(str, extensions))
