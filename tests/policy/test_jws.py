"""Signed tokens: what is refused, whoever signed it, and that the rest is taken."""

import base64
import hmac

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.errors import HandshakeRefused
from gateway.policy.jws import Rules, check_rules, check_signature, looks_like_token, parse_token
from gateway.policy.principal import AccessRefusal
from tests.access.doubles import EC, ED, ISSUER, NOW, OTHER_EC, RSA, claims, forged, signed

RULES = Rules(audiences=["kakitome"], algorithms=["ES256", "RS256"], types=[], subject=["sub"], leeway=0.0)
HEADER = {"alg": "ES256", "kid": "ec-1"}


def refusal(token: str, rules: Rules = RULES) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        check_rules(parse_token(token), rules, now=NOW)
    assert caught.value.status == 401
    ((name, challenge),) = caught.value.headers
    assert name == "WWW-Authenticate"
    assert challenge.startswith('Bearer realm="kakitome", error="invalid_token", error_description="the credential ')
    assert not token or token not in challenge
    return caught.value


# --- what is not well-formed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", "three parts"),
        ("a.b", "three parts"),
        ("a.b.c.d", "three parts"),
        ("a.b.c.d.e", "three parts"),  # encrypted (JWE)
        ("..", "header part that is no JSON object"),
        (forged(HEADER, claims()).replace(".", "=.", 1), "header part that is no JSON object"),
        (forged(HEADER, claims()).replace(".", "\n.", 1), "header part that is no JSON object"),
        (forged([], claims()), "header part that is no JSON object"),
        (forged(HEADER, []), "claims part that is no JSON object"),
        (forged(HEADER, "text"), "claims part that is no JSON object"),
        (forged(HEADER, b"\xff\xfe"), "claims part that is no JSON object"),
        (forged(HEADER, b'{"exp": NaN}'), "claims part that is no JSON object"),
        (forged(HEADER, b'{"exp": Infinity}'), "claims part that is no JSON object"),
        (forged(HEADER, b'{"sub": "alice", "sub": "bob"}'), "with each name once"),
        (forged(HEADER, b'{"a": {"b": 1, "b": 2}}'), "with each name once"),
        (forged(b'{"alg": "ES256", "alg": "none"}', claims()), "with each name once"),
        (forged(HEADER, b'{"a":' * 65 + b"1" + b"}" * 65), "claims part that is no JSON object"),
        (forged(HEADER, b'{"a":' + b"[" * 64 + b"]" * 64 + b"}"), "claims part that is no JSON object"),
        (forged(HEADER, b'{"a":' * 1500 + b"1" + b"}" * 1500), "claims part that is no JSON object"),
        (forged(HEADER, b'{"exp": ' + b"9" * 5000 + b"}"), "claims part that is no JSON object"),
        (forged({"kid": "ec-1"}, claims()), "names no algorithm"),
        (forged({"alg": 5}, claims()), "names no algorithm"),
        (forged({"alg": ["ES256"]}, claims()), "names no algorithm"),
        (forged(HEADER | {"kid": 5}, claims()), "a kid that is no text"),
        (forged(HEADER | {"kid": {"a": 1}}, claims()), "a kid that is no text"),
        (forged(HEADER | {"typ": 1}, claims()), "a typ that is no text"),
        (forged(HEADER | {"crit": ["exp"]}, claims()), "critical header parameters"),
        (forged(HEADER | {"crit": []}, claims()), "critical header parameters"),
        (forged(HEADER | {"b64": False, "crit": ["b64"]}, claims()), "critical header parameters"),
        (forged(HEADER | {"x": "y" * 5000}, claims()), "a header longer than 4096 bytes"),
        (forged(HEADER, {"x": "y" * 20_000}), "longer than 16384 bytes"),
    ],
)
def test_what_is_no_token(token: str, problem: str) -> None:
    assert problem in str(refusal(token))


# --- what is not for us -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "HS256", "HS512", "RS512", "PS256", "EdDSA", "es256", ""]
)
def test_algorithms_that_are_not_named(algorithm: str) -> None:
    token = forged({"alg": algorithm, "kid": "ec-1"}, claims(), b"")
    assert "an algorithm that is not taken here" in str(refusal(token))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"aud": "another"}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": ["another", "third"]}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": [["kakitome"]]}, "another audience"),
        ({"aud": {"kakitome": True}}, "another audience"),
        ({"aud": "kakitome "}, "another audience"),
        ({"exp": None}, "no exp"),
        ({"exp": "1790000300"}, "no exp"),
        ({"exp": True}, "no exp"),
        ({"exp": 2**60}, "no exp"),
        ({"exp": -(2**60)}, "no exp"),
        ({"nbf": int(NOW) + 1}, "not good yet"),
        ({"nbf": "now"}, "a nbf that is no time"),
        ({"iat": int(NOW) + 1}, "issued in the future"),
        ({"iat": []}, "a iat that is no time"),
        ({"sub": None}, "does not say who it is of"),
        ({"sub": ""}, "does not say who it is of"),
        ({"sub": 17}, "does not say who it is of"),
        ({"sub": ["alice"]}, "does not say who it is of"),
        ({"jti": 5}, "a jti that is no text"),
        ({"sid": ["a"]}, "a sid that is no text"),
    ],
)
def test_claims_that_are_not_good(changes: dict[str, object], problem: str) -> None:
    assert problem in str(refusal(signed(claims(**changes))))


def test_expired_is_told_from_invalid() -> None:
    fault = refusal(signed(claims(exp=int(NOW))))
    assert fault.reason == AccessRefusal.EXPIRED
    assert refusal(signed(claims(aud="another"))).reason == AccessRefusal.INVALID


def test_clocks_may_differ_by_the_leeway() -> None:
    lenient = Rules(audiences=["kakitome"], algorithms=["ES256"], types=[], subject=["sub"], leeway=30.0)
    for changes in ({"exp": int(NOW) - 29}, {"nbf": int(NOW) + 30}, {"iat": int(NOW) + 30}):
        check_rules(parse_token(signed(claims(**changes))), lenient, now=NOW)
    for changes in ({"exp": int(NOW) - 30}, {"nbf": int(NOW) + 31}, {"iat": int(NOW) + 31}):
        refusal(signed(claims(**changes)), lenient)


def test_one_of_several_audiences_is_enough() -> None:
    check_rules(parse_token(signed(claims(aud=["another", "kakitome"]))), RULES, now=NOW)


def test_types() -> None:
    strict = Rules(audiences=["kakitome"], algorithms=["ES256"], types=["at+jwt"], subject=["sub"], leeway=0.0)
    for kind in ("at+jwt", "AT+JWT", "application/at+jwt"):
        check_rules(parse_token(signed(claims(), header={"typ": kind})), strict, now=NOW)
    for header in ({}, {"typ": "JWT"}, {"typ": "id+jwt"}):
        assert "another type" in str(refusal(signed(claims(), header=header), strict))


def test_a_subject_inside_another_claim() -> None:
    rules = Rules(audiences=["kakitome"], algorithms=["ES256"], types=[], subject=["user", "id"], leeway=0.0)
    check_rules(parse_token(signed(claims(user={"id": "alice"}))), rules, now=NOW)
    assert "who it is of" in str(refusal(signed(claims(user="alice")), rules))


# --- signatures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "algorithm"), [(EC, "ES256"), (RSA, "RS256"), (RSA, "PS384"), (ED, "EdDSA"), (ED, "Ed25519")]
)
def test_a_signature_that_holds(key: ECKey | RSAKey | OKPKey, algorithm: str) -> None:
    assert check_signature(parse_token(signed(claims(), key, algorithm=algorithm)), [OTHER_EC, key])


def test_a_shared_secret() -> None:
    secret = OctKey.import_key("0123456789abcdef0123456789abcdef")
    token = parse_token(signed(claims(), secret, algorithm="HS256", header={"kid": None}))
    assert check_signature(token, [secret])
    assert not check_signature(token, [OctKey.import_key("another secret of thirty-two byte")])


def test_every_part_is_signed() -> None:
    header, body, signature = signed(claims()).split(".")
    other_header, other_body, other_signature = signed(claims(sub="mallory"), OTHER_EC, header={"kid": "ec-1"}).split(
        "."
    )
    assert check_signature(parse_token(f"{header}.{body}.{signature}"), [EC])
    for parts in (
        (header, other_body, signature),
        (header, body, other_signature),
        (header, body, ""),
        (header, body, signature[:-2]),
        (forged({"alg": "ES256", "kid": "ec-1", "x": 1}, {}).split(".")[0], body, signature),
        (other_header, other_body, other_signature),
    ):
        assert not check_signature(parse_token(".".join(parts)), [EC])


def test_a_public_key_is_no_hmac_secret() -> None:
    # The classic confusion: HS256 over the token with the issuer's public RSA key as the secret.
    for public in (RSA.as_pem(private=False), RSA.as_der(private=False)):
        head, _, rest = forged({"alg": "HS256", "kid": "rsa-1"}, claims()).partition(".")
        text = f"{head}.{rest.partition('.')[0]}"
        signature = base64.urlsafe_b64encode(hmac.digest(public, text.encode(), "sha256")).decode().rstrip("=")
        assert not check_signature(parse_token(f"{text}.{signature}"), [RSA])


def test_a_key_that_came_with_the_token_is_not_looked_at() -> None:
    mallory = ECKey.generate_key("P-256", {"kid": "ec-1"})
    elsewhere = "https://mallory.example/keys"
    header = {"jwk": mallory.as_dict(private=False), "jku": elsewhere, "x5u": elsewhere}
    assert not check_signature(parse_token(signed(claims(), mallory, header=header)), [EC])


def test_a_token_without_a_key_id_is_tried_with_few_keys_only() -> None:
    token = parse_token(signed(claims(), header={"kid": None}))
    assert check_signature(token, [*(ECKey.generate_key("P-256") for _ in range(7)), EC])
    assert not check_signature(token, [*(ECKey.generate_key("P-256") for _ in range(8)), EC])


def test_the_form_of_a_token() -> None:
    assert looks_like_token(signed(claims()))
    assert looks_like_token(forged(b'{ "alg": "ES256"}', {}))
    assert not looks_like_token("opaque-token")
    assert not looks_like_token("kt1.eyJzdWIi.c2ln")
    assert ISSUER not in str(refusal(signed(claims(aud="another"))))
