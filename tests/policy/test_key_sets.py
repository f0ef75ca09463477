"""Key sets and PEM files: what is taken of them, and what is not."""

import json

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.policy.key_sets import KEYS_AT_MOST, parse_key_file, parse_key_set
from tests.access.doubles import EC, ED, RSA, key_set


def test_all_public_signature_keys_of_a_set_are_taken() -> None:
    assert [key.kid for key in parse_key_set(key_set(EC, RSA, ED))] == ["ec-1", "rsa-1", "ed-1"]


def test_keys_that_are_for_something_else_are_passed_over() -> None:
    public = EC.as_dict(private=False)
    entries = [
        public | {"kid": "encryption", "use": "enc"},
        public | {"kid": "signing", "key_ops": ["sign"]},
        OctKey.generate_key(256, {"kid": "secret"}).as_dict(private=True),
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "later"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off the curve"},
        {"kty": "RSA", "kid": "no modulus"},
        "text",
        None,
        {"kid": "no type"},
        public | {"kid": "good", "key_ops": ["verify"], "use": "sig"},
    ]
    assert [key.kid for key in parse_key_set(json.dumps({"keys": entries}).encode())] == ["good"]


def test_small_rsa_keys_are_not_believed() -> None:
    modulus = (
        "u1SU1LfVLPHCozMxH2Mo4lgOEePzNm0tRgeLezV6ffAt0gunVTLw7onLRnrq0_IzW7yWR7QkrmBL7jTKEn5u-qKhbwKfBstIs-bMY2Zkp18g"
        "nTxKLxoS2tFczGkPLPgizskuemMghRniWaoLcyehkd3qqGElvW_VDL5AaWTg0nM"
    )
    weak = json.dumps({"keys": [{"kty": "RSA", "e": "AQAB", "n": modulus, "kid": "weak"}]}).encode()
    with pytest.raises(ValueError, match="no public key that signatures can be checked with"):
        parse_key_set(weak)


def test_private_parts_that_an_issuer_published_by_mistake_are_dropped() -> None:
    (key,) = parse_key_set(json.dumps({"keys": [EC.as_dict(private=True)]}).encode())
    assert not key.is_private


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is no JSON"),
        (b"<html>", "is no JSON"),
        (b"[]", "is no JSON object"),
        (b"{}", "has no list of keys"),
        (b'{"keys": {}}', "has no list of keys"),
        (b'{"keys": []}', "has no public key"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_what_is_no_key_set(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_key_set(data)


def test_a_set_of_very_many_keys_is_cut() -> None:
    entries = [EC.as_dict(private=False) | {"kid": str(index)} for index in range(1000)]
    assert len(parse_key_set(json.dumps({"keys": entries}).encode())) == KEYS_AT_MOST


@pytest.mark.parametrize("key", [EC, RSA, ED])
def test_pem_files(key: ECKey | RSAKey | OKPKey) -> None:
    (found,) = parse_key_file(key.as_pem(private=False))
    assert found.thumbprint() == key.thumbprint()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (EC.as_pem(private=True), "holds a private key; the gateway needs the public one only"),
        (b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", "holds no public key in PEM form"),
        (b"nonsense", "holds no keys: the key set is no JSON"),
    ],
)
def test_files_that_hold_no_key(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_key_file(content)
