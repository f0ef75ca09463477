"""A whole server: what its start warns of, what a reload changes, what a stop waits for, what it tells of memory."""

import logging
from pathlib import Path

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from gateway import entrance
from gateway.protocol.build import DATA_PATH
from tests.sessions.harness import config_of, running, tcp_echo, until
from tests.sessions.routes import stream_route
from tests.support.asking import ask, page_config, upgrade
from tests.support.peers.client import PATIENCE_SECONDS


async def test_a_drain_does_not_wait_for_a_connection_that_may_carry_another_request(tmp_path: Path) -> None:
    config = config_of(page_config(tmp_path), timeouts={"drain": "30s", "handshake": "20s"})
    async with running(config) as server:
        head, _, stream = await ask(server, "GET /novnc/ HTTP/1.1\nHost: x", keep=True)
        assert head.startswith("HTTP/1.1 200 ")
        with trio.fail_after(5):
            await server.drain()
            while await stream.receive_some():
                pass  # the rest of the page, and then its end
        await stream.aclose()


async def test_a_connection_is_not_kept_for_another_request_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = "GET /novnc/ HTTP/1.1\nHost: x"
    async with running(config_of(page_config(tmp_path), timeouts={"handshake": "5m"})) as server:
        monkeypatch.setattr(entrance, "KEPT_ALIVE_SECONDS", 0.0)
        with trio.fail_after(PATIENCE_SECONDS):
            head, body, stream = await ask(server, request)
        assert head.startswith("HTTP/1.1 200 ")
        assert body == "hello"
        await stream.aclose()


# --- memory -----------------------------------------------------------------------------------------------------


async def test_what_is_held_is_told_and_given_back() -> None:
    async with tcp_echo() as port, running(config_of(stream_route(port), memory="8MiB")) as server:
        _, stream = await upgrade(server)
        await until(lambda: len(server.registry) == 1)
        (session,) = server.registry
        told = server.describe_memory()
        used = session.tab.used
        assert told["limit_bytes"] == 8 << 20
        assert told["holder_limit_bytes"] == 2 << 20
        assert told["largest_holders"] == [
            {"holder": "127.0.0.1", "bytes": used, "tabs": 2}
        ]  # its connection has one, too
        assert told["largest_sessions"] == [{"session": session.id, "holder": "127.0.0.1", "bytes": session.tab.used}]
        reading = server.metrics.memory()
        assert (reading.used, reading.largest_holder, reading.holders) == (used, used, 1)
        assert server.metrics.memory().limit == 8 << 20
        await stream.aclose()
        await until(lambda: not server.registry)
        assert (server.account.used, server.account.holders) == (0, 0)


async def test_a_reload_changes_the_budgets() -> None:
    async with running(config_of(stream_route(9), memory="8MiB")) as server:
        await server.apply(config_of(stream_route(9), memory="4MiB", memory_per_holder="3MiB"))
        assert (server.account.limit, server.account.holder_limit) == (4 << 20, 3 << 20)


@pytest.mark.parametrize("slow", [True, False])
async def test_a_slow_form_says_so_at_the_start(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.server.SLOW", slow)
    with capture_logs() as entries:
        async with tcp_echo() as port, running(config_of(stream_route(port))):
            pass
    warnings = [entry for entry in entries if entry["event"] == "not_compiled"]
    assert [(entry["log_level"], entry["data_path"]) for entry in warnings] == [("warning", DATA_PATH)] * slow
    assert all("with a C compiler" in entry["hint"] for entry in warnings)


async def test_the_log_s_level_is_taken_up_by_a_reload_and_its_format_is_not(tmp_path: Path) -> None:
    before = structlog.get_config()["wrapper_class"]
    try:
        with capture_logs() as entries:
            async with running(config_of(page_config(tmp_path))) as server:
                await server.apply(config_of(page_config(tmp_path), log={"level": "debug"}))
                assert structlog.get_config()["wrapper_class"] is structlog.make_filtering_bound_logger(logging.DEBUG)
                await server.apply(config_of(page_config(tmp_path), log={"level": "debug", "format": "console"}))
    finally:
        structlog.configure(wrapper_class=before)
        logging.getLogger().setLevel(logging.WARNING)
    assert [entry["key"] for entry in entries if entry["event"] == "restart_needed"] == ["log.format"]
