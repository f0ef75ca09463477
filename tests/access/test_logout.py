"""Whose logout token it is, whether it is meant for us, and that it counts once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.access.authorisers import Authorisers
from gateway.access.logout import LogoutJudge
from gateway.access.state import SWEEP_EVERY, AccessState, open_state
from gateway.config.access import Logout as LogoutConfig
from gateway.errors import HandshakeRefused
from gateway.policy.logout import EVENT
from tests.access.doubles import EC, ISSUER, JWKS_URL, NOW, OTHER_EC, ScriptedAsker, claims, key_set, signed


def judge_of(state: AccessState, folder: Path, **changes: Any) -> LogoutJudge:
    (folder / "keys.json").write_bytes(key_set(EC))
    config = LogoutConfig.model_validate(
        {
            "issuers": [{"issuer": ISSUER, "keys": str(folder / "keys.json")}],
            "audiences": ["chat"],
            "algorithms": ["ES256"],
            **changes,
        }
    )
    return LogoutJudge(config, Authorisers(ScriptedAsker(), state))


def logout_token(**changes: object) -> str:
    return signed(claims(**{"events": {EVENT: {}}, "sid": "login-1", "aud": "chat", **changes}))


@pytest.fixture
def judge(tmp_path: Path) -> LogoutJudge:
    return judge_of(open_state(None, now=NOW - 1000), tmp_path)


async def refused(judge: LogoutJudge, token: str) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        await judge.judge(token, now=NOW)
    return caught.value


async def test_it_says_who_has_logged_out(judge: LogoutJudge) -> None:
    logout = await judge.judge(logout_token(), now=NOW)
    assert (logout.issuer, logout.subject, logout.login_session) == (ISSUER, "alice", "login-1")


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        (logout_token(iss="https://mallory.example"), "an issuer that is not known"),
        (logout_token(iss=None), "an issuer that is not known"),
        (logout_token(iss=[ISSUER]), "an issuer that is not known"),
        (logout_token(aud="another"), "another audience"),
        (signed(claims()), "another audience"),
        (signed(claims(aud="chat", events={EVENT: {}}), OTHER_EC, header={"kid": "ec-1"}), "does not hold"),
        (signed(claims(aud="chat", events={EVENT: {}}), OTHER_EC), "a key that its issuer does not publish"),
        ("opaque", "no signed token"),
    ],
)
async def test_what_is_not_good_is_401(judge: LogoutJudge, token: str, problem: str) -> None:
    fault = await refused(judge, token)
    assert (fault.status, problem in str(fault)) == (401, True), str(fault)


async def test_a_token_counts_once(judge: LogoutJudge) -> None:
    logout = await judge.judge(logout_token(), now=NOW)
    assert [judge.begin(logout, now=NOW) for _ in range(2)] == [True, False]
    other = await judge.judge(logout_token(jti="t-2"), now=NOW)
    assert judge.begin(other, now=NOW)


async def test_it_counts_once_over_a_restart_too(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = open_state(path, now=NOW - 1000)
    judge = judge_of(state, tmp_path)
    logout = await judge.judge(logout_token(), now=NOW)
    assert judge.begin(logout, now=NOW)
    await judge.keep(logout, now=NOW)
    state.close()
    state = open_state(path, now=NOW)
    assert not judge_of(state, tmp_path).begin(logout, now=NOW)
    state.close()


async def test_one_that_is_good_for_years_is_not_kept_for_years(tmp_path: Path) -> None:
    judge = judge_of(open_state(None, now=NOW - 1000), tmp_path, hold="1h")
    logout = await judge.judge(logout_token(exp=int(NOW) + 10**9), now=NOW)
    assert judge.begin(logout, now=NOW)
    # What is over is swept out now and then.
    others = [replace(logout, token_id=str(number)) for number in range(SWEEP_EVERY)]
    assert all(judge.begin(other, now=NOW + 3601) for other in others)
    assert judge.begin(logout, now=NOW + 3601)


async def test_nobody_is_asked_for_keys_for_what_would_be_refused_without_them() -> None:
    asker = ScriptedAsker()
    issuers = [{"issuer": ISSUER, "keys_url": JWKS_URL}]
    config = LogoutConfig.model_validate({"issuers": issuers, "audiences": ["chat"], "algorithms": ["ES256"]})
    judge = LogoutJudge(config, Authorisers(asker, open_state(None, now=NOW)))
    for token in (logout_token(aud="another"), logout_token(iss="https://mallory.example"), logout_token(jti=None)):
        await refused(judge, token)
    assert asker.questions == []
