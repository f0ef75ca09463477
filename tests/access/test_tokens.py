"""Tokens that stand in the configuration, and certificates that the listener has verified."""

from typing import Literal

import pytest

from gateway.access.method import CertificateNames
from gateway.access.tokens import Holder, MtlsMethod, TokenMethod
from gateway.errors import HandshakeRefused
from tests.access.doubles import NOW, evidence

TOKENS = TokenMethod(
    {
        "one": Holder(subject="ci", claims={"groups": ["machines"]}),
        "other": Holder(subject="backup", claims={}),
    }
)
NAMES = CertificateNames(alternative_name="spiffe://example/bob", subject="CN=bob,O=Example", common_name="bob")
NAMELESS = CertificateNames(alternative_name=None, subject="O=Example", common_name=None)


async def test_a_token_is_its_holders() -> None:
    principal = await TOKENS.identify(evidence("one"), NOW)
    assert (principal.subject, principal.method, principal.claims) == ("ci", "token", {"groups": ["machines"]})
    assert (principal.issuer, principal.expires_at) == (None, None)
    assert (await TOKENS.identify(evidence("other"), NOW)).subject == "backup"


@pytest.mark.parametrize("shown", [None, "", "on", "one ", "ONE", "another"])
def test_what_is_none_of_them_is_left_to_another_method(shown: str | None) -> None:
    assert not TOKENS.applies(evidence(shown))


def test_no_token_is_kept_as_it_is() -> None:
    assert TOKENS.applies(evidence("one"))
    assert "one" not in repr(vars(TOKENS))


@pytest.mark.parametrize(
    ("of", "names", "subject"),
    [
        ("san", NAMES, "spiffe://example/bob"),
        ("san", NAMELESS, "O=Example"),
        ("subject", NAMES, "CN=bob,O=Example"),
        ("common_name", NAMES, "bob"),
    ],
)
async def test_a_certificate_says_who_it_is_of(
    of: Literal["san", "subject", "common_name"], names: CertificateNames, subject: str
) -> None:
    method = MtlsMethod(of)
    shown = evidence(certificate=names)
    assert method.applies(shown)
    principal = await method.identify(shown, NOW)
    assert (principal.subject, principal.method) == (subject, "mtls")
    assert principal.claims == {
        "subject": names.subject,
        "common_name": names.common_name,
        "name": names.alternative_name,
    }


async def test_a_certificate_without_the_name_that_is_asked_for_is_nobodys() -> None:
    with pytest.raises(HandshakeRefused, match="has no common name") as caught:
        await MtlsMethod("common_name").identify(evidence(certificate=NAMELESS), NOW)
    assert caught.value.status == 401


def test_without_a_certificate_another_method_decides() -> None:
    assert not MtlsMethod("san").applies(evidence("one"))
