"""An issuer's keys: read, published, rotated, and away."""

import contextlib
import json
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.access import keys as keys_module
from gateway.access.asking import Answer, Question
from gateway.access.keys import (
    FETCH_SPACING_SECONDS,
    UNKNOWN_KEY_IDS,
    FileKeys,
    PublishedKeys,
    SecretKeys,
)
from gateway.errors import HandshakeRefused
from tests.access.doubles import EC, ISSUER, JWKS_URL, OTHER_EC, ScriptedAsker, key_set

DISCOVERY_URL = f"{ISSUER}/.well-known/openid-configuration"


def published(asker: ScriptedAsker, *, url: str | None = JWKS_URL) -> PublishedKeys:
    return PublishedKeys(asker, issuer=ISSUER, url=url, refresh_seconds=600, timeout_seconds=5)


async def ids(keys: PublishedKeys, key_id: str | None) -> list[str | None]:
    return [key.kid for key in await keys.find(key_id)]


async def away(keys: PublishedKeys, key_id: str | None) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        await keys.find(key_id)
    assert caught.value.status == 503
    assert ("Retry-After", "5") in caught.value.headers


# --- in a file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (EC.as_pem(private=True), "key.pem holds a private key"),
        (b"nonsense", "key.pem holds no keys: the key set is no JSON"),
    ],
)
def test_files_that_hold_no_key(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        FileKeys(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*key\.pem: No such file or directory"):
        FileKeys(tmp_path / "key.pem")


async def test_a_file_is_read_again_when_it_changes_and_a_faulty_one_changes_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(EC))
    keys = FileKeys(path)
    assert [key.kid for key in await keys.find("ec-1")] == ["ec-1"]
    for content, expected in ((b"{", ["ec-1"]), (key_set(OTHER_EC), ["ec-2"])):
        path.write_bytes(content)
        await trio.sleep(keys_module.CHECK_FILE_SECONDS)
        assert [key.kid for key in await keys.find(None)] == expected
    path.unlink()
    await trio.sleep(keys_module.CHECK_FILE_SECONDS)
    assert [key.kid for key in await keys.find(None)] == ["ec-2"]
    assert await keys.find("ec-1") == ()


async def test_a_pem_file_serves_tokens_of_any_key_id(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(EC.as_pem(private=False))
    assert len(await FileKeys(path).find("whatever")) == 1


async def test_old_and_new_secret_side_by_side() -> None:
    assert (
        len(await SecretKeys(["an old secret of thirty-two bytes", "a new secret of thirty-two bytes."]).find("any"))
        == 2
    )


# --- published ----------------------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_for_all_who_wait(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.delay_seconds = 1
    asker.say(JWKS_URL, key_set(EC, OTHER_EC))
    keys = published(asker)
    nursery.start_soon(keys.run)
    found: list[list[str | None]] = []

    async def look() -> None:
        found.append(await ids(keys, "ec-1"))

    async with trio.open_nursery() as clients:
        for _ in range(50):
            clients.start_soon(look)
    assert found == [["ec-1"]] * 50
    assert asker.asked(JWKS_URL) == 1


async def test_discovery(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    asker = ScriptedAsker()
    asker.say(DISCOVERY_URL, json.dumps({"issuer": ISSUER, "jwks_uri": JWKS_URL}).encode())
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker, url=None)
    nursery.start_soon(keys.run)
    assert await ids(keys, "ec-1") == ["ec-1"]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://mallory.example", "jwks_uri": JWKS_URL},
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": 5},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/keys"},
        {"issuer": ISSUER, "jwks_uri": "http://login.example.com/keys"},
        [],
    ],
)
async def test_a_discovery_document_that_cannot_be_believed(
    document: object, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.say(DISCOVERY_URL, json.dumps(document).encode())
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker, url=None)
    nursery.start_soon(keys.run)
    await away(keys, "ec-1")
    assert asker.asked(JWKS_URL) == 0


@pytest.mark.parametrize("answer", ["away", "error", "nonsense", "empty"])
async def test_without_any_key_newcomers_wait(
    answer: str, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    if answer == "error":
        asker.say(JWKS_URL, key_set(EC), status=500)
    elif answer != "away":
        asker.say(JWKS_URL, {"nonsense": b"<html>", "empty": b'{"keys": []}'}[answer])
    keys = published(asker)
    nursery.start_soon(keys.run)
    await away(keys, "ec-1")
    assert keys.problem
    asker.say(JWKS_URL, key_set(EC))
    await trio.sleep(2 * FETCH_SPACING_SECONDS)
    assert await ids(keys, "ec-1") == ["ec-1"]
    assert keys.problem is None


async def test_stale_keys_stay_good_while_the_issuer_is_away(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker)
    nursery.start_soon(keys.run)
    assert await ids(keys, "ec-1") == ["ec-1"]
    del asker.answers[JWKS_URL]
    await trio.sleep(24 * 3600)
    assert await ids(keys, "ec-1") == ["ec-1"]
    await away(keys, "ec-2")


async def test_a_key_that_is_new_is_fetched_when_a_token_names_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker)
    nursery.start_soon(keys.run)
    await ids(keys, "ec-1")
    asker.say(JWKS_URL, key_set(OTHER_EC))
    await trio.sleep(FETCH_SPACING_SECONDS)
    assert await ids(keys, "ec-2") == ["ec-2"]
    assert await ids(keys, "ec-1") == []  # withdrawn by its issuer
    assert asker.asked(JWKS_URL) == 2


async def test_a_flood_of_key_ids_causes_no_flood_of_fetches(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker)
    nursery.start_soon(keys.run)
    await ids(keys, "ec-1")
    began = trio.current_time()
    for index in range(3000):
        with contextlib.suppress(HandshakeRefused):
            assert await ids(keys, f"made-up-{index}") == []
        await trio.sleep(0.1)
        assert await ids(keys, "ec-1") == ["ec-1"]
    elapsed = trio.current_time() - began
    assert asker.asked(JWKS_URL) <= elapsed / FETCH_SPACING_SECONDS + 2
    assert asker.most_under_way == 1


async def test_a_key_id_that_the_issuer_did_not_have_is_asked_for_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker)
    nursery.start_soon(keys.run)
    await ids(keys, "ec-1")
    await trio.sleep(FETCH_SPACING_SECONDS)
    for _ in range(100):
        assert await ids(keys, "made-up") == []
        await trio.sleep(1)
    assert asker.asked(JWKS_URL) == 2


async def test_what_is_remembered_of_unknown_key_ids_is_bounded(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker)
    nursery.start_soon(keys.run)
    await ids(keys, "ec-1")
    await trio.sleep(FETCH_SPACING_SECONDS)
    async with trio.open_nursery() as clients:
        for index in range(2 * UNKNOWN_KEY_IDS):
            clients.start_soon(keys.find, f"made-up-{index}")
    assert len(keys._unknown) == UNKNOWN_KEY_IDS


async def test_a_client_that_goes_away_takes_no_fetch_with_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.delay_seconds = 2
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker)
    nursery.start_soon(keys.run)
    with trio.move_on_after(1):
        await keys.find("ec-1")
    assert await ids(keys, "ec-1") == ["ec-1"]
    assert asker.asked(JWKS_URL) == 1


async def test_an_issuer_that_answers_nonsense_later_keeps_its_keys(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    asker = ScriptedAsker()
    asker.say(JWKS_URL, key_set(EC))
    keys = published(asker)
    nursery.start_soon(keys.run)
    await ids(keys, "ec-1")

    def huge(question: Question) -> Answer:
        return Answer(status=200, headers=(), body=b'{"keys": [')

    asker.answers[JWKS_URL] = huge
    await trio.sleep(3600)
    assert keys.problem == "the key set is no JSON"
    assert await ids(keys, "ec-1") == ["ec-1"]
