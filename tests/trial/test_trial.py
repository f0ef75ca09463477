"""Whole trials, short ones: what each pairing promises is kept, and what is found is reported."""

import json
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import StartupError
from gateway.trial.faults import Direction, FaultKind
from gateway.trial.records_backend import read_books
from gateway.trial.tally import Books, Witness
from gateway.trial.trial import BackendKind, ClientKind, Progress, Report, Settings, run_trial
from tests.support.network import free_port

QUICK = Settings(clients=3, messages=200, faults=20, quiet_seconds=1.0)
"""Where losses are possible: clients that fell into a black hole need not be patient, only told the truth."""


def problems(report: Report) -> str:
    return "\n".join(f"{account.direction} {account.witness} {account.report}" for account in report.accounts)


async def test_records_on_both_hops_lose_and_double_nothing_whatever_is_cut_or_killed() -> None:
    seen: list[Progress] = []
    settings = Settings(clients=3, messages=400, faults=40, kills=1, seed=20261121)
    report = await run_trial(settings, seen.append)
    assert report.promise_kept, problems(report)
    assert sum(report.faults.values()) == 40
    assert report.faults[FaultKind.KILL_GATEWAY] == report.faults[FaultKind.KILL_BACKEND] == 1
    assert report.resumes >= 3
    for account in report.accounts:
        assert account.report.told_settled >= account.report.sent - 10  # the last ACK may be lost with its connection
    assert seen[-1].part > 0.9
    assert seen[-1].faults == 40


async def test_a_stream_backend_that_lives_gets_everything_once_and_so_does_its_client() -> None:
    settings = Settings(backend=BackendKind.STREAM, clients=4, messages=300, faults=30, seed=3)
    report = await run_trial(settings)
    assert report.promise_kept, problems(report)
    assert report.resumes > 0


async def test_with_kills_a_stream_backends_clients_are_told_the_truth() -> None:
    settings = replace(QUICK, backend=BackendKind.STREAM, kills=1, seed=4)
    report = await run_trial(settings)
    assert report.promise_kept, problems(report)
    assert report.most_unknown <= 256
    assert {account.witness for account in report.accounts} == {Witness.RECORDS, Witness.SEND}


async def test_of_plain_clients_the_gateway_claims_nothing_that_is_not_true() -> None:
    settings = replace(QUICK, client=ClientKind.PLAIN, backend=BackendKind.STREAM, seed=5)
    report = await run_trial(settings)
    assert report.promise_kept, problems(report)
    claims = [account.report for account in report.accounts if account.witness is Witness.LOG]
    assert len(claims) == len(Direction)
    assert all(claim.told_settled > 0 for claim in claims)


async def test_a_records_backend_is_told_the_truth_of_plain_clients_and_they_of_it() -> None:
    settings = replace(QUICK, client=ClientKind.PLAIN, seed=8)
    report = await run_trial(settings)
    assert report.promise_kept, problems(report)
    claims = {(account.direction, account.witness): account.report for account in report.accounts}
    assert claims[Direction.UPSTREAM, Witness.LOG].told_settled > 0
    assert claims[Direction.DOWNSTREAM, Witness.LOG].told_settled > 0
    assert claims[Direction.DOWNSTREAM, Witness.RECORDS].told_settled > 0
    assert not any(account.report.doubled for account in report.accounts)


async def test_any_gateway_can_be_tried_here_one_that_only_copies_bytes() -> None:
    listen, backend = free_port(), free_port()
    settings = replace(
        QUICK,
        url=f"ws://127.0.0.1:{listen}/",
        name="copier",
        gateway_command=f"{sys.executable} -m tests.trial.copier {listen} {backend}",
        backend_bind=("127.0.0.1", backend),
        client=ClientKind.PLAIN,
        backend=BackendKind.WEBSOCKET,
        kills=1,
        seed=6,
    )
    report = await run_trial(settings)
    assert report.finished
    assert {account.witness for account in report.accounts} == {Witness.SEND}
    assert all(account.report.arrived > 0 for account in report.accounts)


async def test_a_trial_in_which_nothing_moves_is_ended_and_says_so() -> None:
    port = free_port()  # where nothing listens
    settings = Settings(url=f"ws://127.0.0.1:{port}/", clients=1, messages=5, faults=0, patience_seconds=0.5)
    report = await run_trial(settings)
    assert not report.finished
    assert not report.promise_kept


async def test_a_gateway_that_does_not_start_is_named() -> None:
    settings = Settings(
        url="ws://127.0.0.1:1/", gateway_command="/nonexistent/gateway", clients=1, messages=1, faults=0
    )
    with pytest.RaisesGroup(
        pytest.RaisesExc(StartupError, match="the gateway cannot be started"), flatten_subgroups=True
    ):
        await run_trial(settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (Settings(faults=3, kills=2), "3 faults cannot have 2 kills each of two processes among them"),
        (Settings(backend=BackendKind.WEBSOCKET), "a websocket backend is for plain clients"),
        (Settings(url="wss://127.0.0.1/"), "a trial needs a ws:// URL"),
        (Settings(url="ws://127.0.0.1:1/", kills=1), "give the command"),
    ],
)
async def test_settings_that_contradict_each_other_are_refused(settings: Settings, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        await run_trial(settings)


async def test_when_a_plain_client_gets_a_message_twice_what_was_written_of_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_double(path: Path, books: Books) -> None:
        read_books(path, books)
        books.down[0].arrive(books.down[0].newest)

    monkeypatch.setattr("gateway.trial.trial.read_books", read_and_double)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = Settings(client=ClientKind.PLAIN, clients=2, messages=20, faults=0, quiet_seconds=0.5, seed=9)
    report = await run_trial(settings)
    assert report.evidence is not None
    with closing(sqlite3.connect(report.evidence / "backend.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM trial_sessions").fetchone() == (2,)
    sessions = [json.loads(line) for line in (report.evidence / "sessions.json").read_text().splitlines()]
    assert {session["event"] for session in sessions} == {"session_ended"}
    clients = json.loads((report.evidence / "clients.json").read_text())
    assert [client["received"] for client in clients] == [[20], [20]]
    assert os.listdir(tmp_path) == [report.evidence.name], "and nothing else is"
