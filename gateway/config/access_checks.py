"""What the keys of `authentication` must agree on, among themselves and with their route.

Invariant: an authentication without findings can be built, and lets nobody in whom its words do not let in.
"""

from collections.abc import Iterator, Sequence

from pydantic import SecretStr

from gateway.config.access import MIN_SECRET_BYTES, SYMMETRIC, Authentication, Issuer, Jwt, Logout, Tokens
from gateway.config.document import Finding, KeyPath

_ANY_PAGE = ("*", "null")


def authentication_findings(
    authentication: Authentication, path: KeyPath, *, origins: Sequence[str], serves_files: bool, has_client_ca: bool
) -> Iterator[Finding]:
    """Every fault of one route's `authentication`, which stands at `path`."""
    places = authentication.credential
    if serves_files and (places.open or places.subprotocol):
        key = "open" if places.open else "subprotocol"
        yield Finding(path=(*path, "credential", key), message="is for WebSockets; this route serves files")
    any_page = next((rule for rule in origins if rule in _ANY_PAGE), None)
    if any_page is not None and not serves_files:
        wanting = list(_cookies(authentication, path))
        for where in wanting:
            message = (
                f'reads a cookie, which browsers send from any page, and origins has "{any_page}": name the pages that '
                "may use it, or take the credential from elsewhere"
            )
            yield Finding(path=where, message=message)
    for index, method in enumerate(authentication.methods):
        entry: KeyPath = (*path, "methods", index)
        if len(method.given) != 1:
            names = ", ".join(type(method).model_fields)
            found = " and ".join(method.given) or "none"
            yield Finding(path=entry, message=f"must have exactly one of {names}, not {found}")
        if method.jwt is not None:
            yield from _issuer_findings(method.jwt, (*entry, "jwt"))
        if method.ticket is not None:
            yield from _secret_findings(method.ticket.secrets, (*entry, "ticket", "secrets"))
        if method.token is not None:
            yield from _token_findings(method.token, (*entry, "token", "tokens"))
        if method.mtls is not None and not has_client_ca:
            message = "needs a listener with tls.client_ca, which verifies the certificates that it reads"
            yield Finding(path=(*entry, "mtls"), message=message)


def logout_findings(logout: Logout, path: KeyPath) -> Iterator[Finding]:
    """Every fault of one route's `logout`, which stands at `path`."""
    yield from _issuer_findings(logout, path)


def _cookies(authentication: Authentication, path: KeyPath) -> Iterator[KeyPath]:
    if authentication.credential.cookie is not None:
        yield (*path, "credential", "cookie")
    for index, method in enumerate(authentication.methods):
        if method.forward is not None and "cookie" in (name.lower() for name in method.forward.request_headers):
            yield (*path, "methods", index, "forward", "request_headers")


def _issuer_findings(jwt: Jwt | Logout, path: KeyPath) -> Iterator[Finding]:
    symmetric = [name for name in jwt.algorithms if name in SYMMETRIC]
    asymmetric = [name for name in jwt.algorithms if name not in SYMMETRIC]
    seen: dict[str, int] = {}
    for index, issuer in enumerate(jwt.issuers):
        where: KeyPath = (*path, "issuers", index)
        given = _key_sources(issuer)
        if len(given) != 1:
            found = " and ".join(given) or "none"
            message = f"must have exactly one of keys, keys_url, discovery, secrets, not {found}"
            yield Finding(path=where, message=message)
        if issuer.secrets and not symmetric:
            yield Finding(
                path=(*where, "secrets"), message="are for HS256, HS384 and HS512, of which algorithms has none"
            )
        if given and not issuer.secrets and not asymmetric:
            message = (
                f"has public keys, and algorithms has {', '.join(symmetric)} only: name one such as ES256 or RS256"
            )
            yield Finding(path=(*where, given[0]), message=message)
        if issuer.discovery and not issuer.issuer.startswith(("https://", "http://")):
            message = f'asks "{issuer.issuer}" for its keys, which is no URL'
            yield Finding(path=(*where, "discovery"), message=message)
        yield from _secret_findings(issuer.secrets, (*where, "secrets"))
        if issuer.issuer in seen:
            other: KeyPath = (*path, "issuers", seen[issuer.issuer])
            yield Finding(path=(*where, "issuer"), message=f'"{issuer.issuer}" stands here already', see=other)
        seen.setdefault(issuer.issuer, index)


def _key_sources(issuer: Issuer) -> list[str]:
    present = {
        "keys": issuer.keys is not None,
        "keys_url": issuer.keys_url is not None,
        "discovery": issuer.discovery,
        "secrets": bool(issuer.secrets),
    }
    return [name for name, given in present.items() if given]


def _secret_findings(secrets: Sequence[SecretStr], path: KeyPath) -> Iterator[Finding]:
    for index, secret in enumerate(secrets):
        text = secret.get_secret_value()
        # One that stayed unread, on a machine that has only the configuration, cannot be judged.
        if len(text.encode()) < MIN_SECRET_BYTES and not text.startswith("file:"):
            message = f"must have {MIN_SECRET_BYTES} bytes or more: shorter ones can be guessed from what they signed"
            yield Finding(path=(*path, index), message=message)


def _token_findings(tokens: Tokens, path: KeyPath) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, held in enumerate(tokens.tokens):
        text = held.token.get_secret_value()
        if text in seen:
            message = "is the same token as that of another subject: nobody could tell them apart"
            yield Finding(path=(*path, index, "token"), message=message, see=(*path, seen[text]))
        seen.setdefault(text, index)
