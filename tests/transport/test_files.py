"""Files over loopback: what is served, what is not there for anybody, and clients that leave."""

import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from gateway.protocol.http import Request
from gateway.transport.channel import Channel
from gateway.transport.files import (
    CHUNK_BYTES,
    CHUNK_TIMEOUT_SECONDS,
    DEFAULT_CSP,
    Folder,
    serve_file,
)
from tests.transport.loopback import connected_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client got, and what `serve_file` returned and counted."""

    status: int
    headers: dict[str, str]
    body: bytes
    keeps: bool
    counted: list[int]


def _request(target: str, method: str = "GET", http_version: str = "1.1", **headers: str) -> Request:
    fields = (("host", "x"), *((name.replace("_", "-"), value) for name, value in headers.items()))
    return Request.parse(method=method, target=target, http_version=http_version, headers=fields)


async def _fetch(
    folder: Folder, target: str, *, method: str = "GET", http_version: str = "1.1", **headers: str
) -> Answer:
    """The answer to one request, read up to where it says that it ends and not to the connection's end."""
    request = _request(target, method, http_version, **headers)
    counted: list[int] = []
    keeps: list[bool] = []

    async def serve(channel: Channel) -> None:
        keeps.append(await serve_file(folder, request, channel, on_response=counted.append))

    async with connected_channels() as (channel, client), trio.open_nursery() as nursery:
        nursery.start_soon(serve, channel)
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target=target, headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        response: h11.Response | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await client.receive_some())
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                break
        client.close()
    assert response is not None
    fields = {name.decode(): value.decode() for name, value in response.headers}
    return Answer(status=response.status_code, headers=fields, body=body, keeps=keeps[0], counted=counted)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder as it is served, with a secret beside it."""
    root = tmp_path / "www"
    (root / "sub" / ".hidden").mkdir(parents=True)
    (root / "bare").mkdir()
    (root / "index.html").write_text("<h1>どやさ</h1>")
    (root / "app.js").write_text("start()")
    (root / "large.bin").write_bytes(os.urandom(2 * CHUNK_BYTES + 12345))
    (root / "empty.txt").write_bytes(b"")
    (root / "書留 page.html").write_text("registered")
    (root / "sub" / "index.html").write_text("sub")
    (root / ".env").write_text("SECRET")
    (root / "sub" / ".hidden" / "key").write_text("SECRET")
    (tmp_path / "secret").write_text("SECRET")
    (tmp_path / "www-other").mkdir()
    (tmp_path / "www-other" / "secret").write_text("SECRET")
    return root


@pytest.fixture
def folder(root: Path) -> Folder:
    return Folder(root)


@pytest.mark.parametrize(
    ("target", "content_type", "name"),
    [
        ("/app.js", "text/javascript; charset=utf-8", "app.js"),
        ("/app.js?v=3", "text/javascript; charset=utf-8", "app.js"),
        ("/", "text/html; charset=utf-8", "index.html"),
        ("/sub/", "text/html; charset=utf-8", "sub/index.html"),
        ("/empty.txt", "text/plain; charset=utf-8", "empty.txt"),
        ("/large.bin", "application/octet-stream", "large.bin"),
        ("/%E6%9B%B8%E7%95%99%20page.html", "text/html; charset=utf-8", "書留 page.html"),
    ],
)
async def test_a_file_is_served_whole_with_its_type(
    folder: Folder, root: Path, target: str, content_type: str, name: str
) -> None:
    answer = await _fetch(folder, target)
    assert (answer.status, answer.body) == (200, (root / name).read_bytes())
    assert answer.headers["content-type"] == content_type
    assert (answer.keeps, answer.counted) == (True, [200])


@pytest.mark.parametrize("target", ["/app.js", "/nothing", "/sub"])
async def test_every_answer_carries_the_headers_that_keep_pages_in_bounds(folder: Folder, target: str) -> None:
    headers = (await _fetch(folder, target)).headers
    assert headers["content-security-policy"] == DEFAULT_CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-cache"
    assert headers["date"].endswith(" GMT")


async def test_the_route_may_have_a_policy_of_its_own_over_several_lines(root: Path) -> None:
    folder = Folder(root, csp="default-src 'self';\n  style-src 'self' 'unsafe-inline'\n")
    headers = (await _fetch(folder, "/")).headers
    assert headers["content-security-policy"] == "default-src 'self'; style-src 'self' 'unsafe-inline'"


@pytest.mark.parametrize(
    ("match_path", "target", "status"),
    [
        ("/novnc/*", "/novnc/app.js", 200),
        ("/novnc/*", "/novnc/", 200),
        ("/novnc/*", "/novnc/sub/", 200),
        ("/novnc/*", "/app.js", 404),
        ("/novnc/*", "/nov", 404),
        ("/app.js", "/app.js", 200),
        ("/lib/app.js", "/lib/app.js", 200),
    ],
)
async def test_the_part_below_the_routes_prefix_names_the_file(
    root: Path, match_path: str, target: str, status: int
) -> None:
    assert (await _fetch(Folder(root, match_path=match_path), target)).status == status


async def test_a_folder_without_its_slash_is_redirected_to_it(root: Path) -> None:
    answer = await _fetch(Folder(root, match_path="/nö/*"), "/n%C3%B6/sub?a=%2F&b")
    assert (answer.status, answer.headers["location"]) == (308, "/n%C3%B6/sub/?a=%2F&b")
    assert (answer.keeps, answer.counted) == (True, [308])


async def test_the_prefix_without_its_slash_is_redirected_to_the_folder_and_keeps_its_query(root: Path) -> None:
    answer = await _fetch(Folder(root, match_path="/nö/*"), "/n%C3%B6?autoconnect=1&path=a%2Fb")
    assert (answer.status, answer.headers["location"]) == (308, "/n%C3%B6/?autoconnect=1&path=a%2Fb")
    assert (answer.keeps, answer.counted) == (True, [308])


@pytest.mark.parametrize(
    "target",
    [
        "/nothing.html", "/bare/", "/app.js/", "/app.js/x", "/sub//index.html", "/" + "x" * 300, "/sub/nothing",
        "/.env", "/sub/.hidden/key", "/sub/.hidden/", "/...", "/.well-known/x",
    ],
)  # fmt: skip
async def test_what_is_not_there_or_begins_with_a_dot_is_404(folder: Folder, target: str) -> None:
    answer = await _fetch(folder, target)
    assert (answer.status, answer.body) == (404, b"Not Found\n")
    assert (answer.keeps, answer.counted) == (True, [404])


@pytest.mark.parametrize(
    ("link", "leads_to"),
    [
        ("out.txt", "../secret"),
        ("absolute.txt", "{parent}/secret"),
        ("sub/out.txt", "../../secret"),
        ("beside.txt", "../www-other/secret"),
        ("outside", ".."),
        ("loop", "loop"),
        ("device", "/dev/zero"),
        ("process", "/proc/self/environ"),
    ],
)
async def test_no_symbolic_link_leads_out(folder: Folder, root: Path, link: str, leads_to: str) -> None:
    (root / link).symlink_to(leads_to.format(parent=root.parent))
    target = "/outside/secret" if link == "outside" else f"/{link}"
    answer = await _fetch(folder, target)
    assert (answer.status, answer.body) == (404, b"Not Found\n")


async def test_links_that_stay_inside_are_followed_as_those_of_a_mounted_config_map(root: Path) -> None:
    (root / "..2026_03_01").mkdir()
    (root / "..2026_03_01" / "config.json").write_text("{}")
    (root / "..data").symlink_to("..2026_03_01")
    (root / "config.json").symlink_to("..data/config.json")
    assert (await _fetch(Folder(root), "/config.json")).body == b"{}"
    assert (await _fetch(Folder(root), "/..data/config.json")).status == 404


async def test_the_folder_itself_may_be_a_link_that_is_switched(root: Path, tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "app.js").write_text("restart()")
    current = tmp_path / "current"
    current.symlink_to(root)
    folder = Folder(current)
    assert (await _fetch(folder, "/app.js")).body == b"start()"
    current.unlink()
    current.symlink_to(tmp_path / "next")
    assert (await _fetch(folder, "/app.js")).body == b"restart()"


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("make", [_make_pipe, _make_socket])
async def test_what_is_no_regular_file_is_not_there_and_not_waited_for(
    folder: Folder, root: Path, make: Callable[[Path], None]
) -> None:
    make(root / "special")
    with trio.fail_after(5):
        assert (await _fetch(folder, "/special")).status == 404


async def test_a_folder_that_is_gone_is_404(tmp_path: Path) -> None:
    assert (await _fetch(Folder(tmp_path / "nothing"), "/")).status == 404


async def test_a_file_that_may_not_be_read_is_403(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    # Taken from the system call, because tests may run as root, who may read everything.
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    answer = await _fetch(folder, "/app.js")
    assert (answer.status, answer.body) == (403, b"Forbidden\n")


async def test_a_fault_of_the_disk_is_500_without_detail(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    answer = await _fetch(folder, "/app.js")
    assert (answer.status, answer.body) == (500, b"Internal Server Error\n")


@pytest.mark.parametrize(
    ("target", "length"), [("/large.bin", 2 * CHUNK_BYTES + 12345), ("/nothing", len(b"Not Found\n"))]
)
async def test_head_tells_the_length_and_sends_no_body(folder: Folder, target: str, length: int) -> None:
    answer = await _fetch(folder, target, method="HEAD")
    assert (answer.headers["content-length"], answer.body) == (str(length), b"")


async def test_what_the_client_has_already_is_not_sent_again(folder: Folder) -> None:
    first = await _fetch(folder, "/app.js")
    again = await _fetch(folder, "/app.js", if_none_match=first.headers["etag"])
    assert (again.status, again.body, again.keeps) == (304, b"", True)
    dated = await _fetch(folder, "/app.js", if_modified_since=first.headers["last-modified"])
    assert dated.status == 304


async def test_a_range_across_chunks_is_sent(folder: Folder, root: Path) -> None:
    content = (root / "large.bin").read_bytes()
    answer = await _fetch(folder, "/large.bin", range=f"bytes=100-{CHUNK_BYTES + 200}")
    assert (answer.status, answer.body) == (206, content[100 : CHUNK_BYTES + 201])


@pytest.mark.parametrize(("http_version", "headers"), [("1.1", {"connection": "close"}), ("1.0", {})])
@pytest.mark.parametrize("target", ["/app.js", "/nothing", "/sub"])
async def test_the_connection_is_ended_when_the_client_will_not_keep_it(
    folder: Folder, target: str, http_version: str, headers: dict[str, str]
) -> None:
    answer = await _fetch(folder, target, http_version=http_version, **headers)
    assert not answer.keeps
    assert answer.headers["connection"] == "close"


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    async with connected_channels() as both:
        yield both


async def _receive_all(channel: Channel) -> bytes:
    parts = []
    while part := await channel.receive_some(1 << 20):
        parts.append(part)
    return b"".join(parts)


async def test_a_file_that_is_cut_while_it_is_sent_ends_the_connection_short_of_the_promise(
    folder: Folder, root: Path, ends: tuple[Channel, Channel]
) -> None:
    channel, client = ends
    received: list[bytes] = []

    def cut(_: int) -> None:
        os.truncate(root / "large.bin", 1000)

    async def receive() -> None:
        received.append(await _receive_all(client))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        keeps = await serve_file(folder, _request("/large.bin"), channel, on_response=cut)
    assert not keeps
    head, _, body = received[0].partition(b"\r\n\r\n")
    assert f"Content-Length: {2 * CHUNK_BYTES + 12345}".encode() in head
    assert len(body) == 1000


async def test_a_disk_that_fails_while_a_file_is_sent_ends_the_connection(
    folder: Folder, ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, client = ends

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_receive_all, client)
        assert not await serve_file(folder, _request("/app.js"), channel)


def is_open(path: Path) -> bool:
    """Whether this process has a descriptor of the file."""
    descriptors = Path("/proc/self/fd")
    return any(os.readlink(entry) == str(path.resolve()) for entry in descriptors.iterdir() if entry.is_symlink())


async def test_a_client_that_does_not_take_the_file_is_left_and_its_descriptor_freed(
    root: Path, ends: tuple[Channel, Channel], autojump_clock: MockClock
) -> None:
    channel, _ = ends
    with (root / "huge.bin").open("wb") as huge:
        huge.truncate(1 << 30)
    began = trio.current_time()
    assert not await serve_file(Folder(root), _request("/huge.bin"), channel)
    assert trio.current_time() - began >= CHUNK_TIMEOUT_SECONDS
    assert channel.closed
    assert not is_open(root / "huge.bin")


async def test_a_download_has_an_age_however_steadily_it_is_taken(
    root: Path, ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real time, for the kernel's window has no other."""
    channel, client = ends
    monkeypatch.setattr("gateway.transport.files.DOWNLOAD_SECONDS", 0.5)
    with (root / "huge.bin").open("wb") as huge:
        huge.truncate(1 << 40)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            while await client.receive_some(CHUNK_BYTES):
                pass

        nursery.start_soon(take)
        assert not await serve_file(Folder(root), _request("/huge.bin"), channel)
        assert trio.current_time() - began >= 0.5
    assert channel.closed


async def test_a_client_that_goes_away_is_an_error_and_frees_the_descriptor(
    root: Path, ends: tuple[Channel, Channel]
) -> None:
    channel, client = ends
    with (root / "huge.bin").open("wb") as huge:
        huge.truncate(1 << 30)

    def leave(_: int) -> None:
        client.close()

    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        await serve_file(Folder(root), _request("/huge.bin"), channel, on_response=leave)
    assert not is_open(root / "huge.bin")


async def test_cancelling_frees_the_descriptor(root: Path, ends: tuple[Channel, Channel]) -> None:
    channel, _ = ends
    with (root / "huge.bin").open("wb") as huge:
        huge.truncate(1 << 30)
    with trio.CancelScope() as scope:
        await serve_file(Folder(root), _request("/huge.bin"), channel, on_response=lambda _: scope.cancel())
    assert scope.cancelled_caught
    assert not is_open(root / "huge.bin")


_PATHS = st.lists(
    st.sampled_from(["..", ".", "", "sub", "secret", ".env", "\\", "\\..\\", "a\0", "www", "etc", "x"])
).map(lambda segments: "/" + "/".join(segments))


@given(st.one_of(_PATHS, st.text().map(lambda text: "/" + text)))
def test_no_path_names_a_place_outside_of_the_folder_or_a_dotfile(path: str) -> None:
    relative = Folder(Path("/srv/www")).locate(path)
    if relative is not None:
        assert os.path.normpath(f"/srv/www/{relative}") == f"/srv/www/{relative}"
        assert not any(segment.startswith(".") for segment in relative.split("/"))
        assert "\0" not in relative
