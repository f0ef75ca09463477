"""Serves a folder over HTTP: pages that belong to a WebSocket service, such as noVNC, from the gateway itself.

Invariant: only regular files below the folder leave it. Names that begin with a dot are not there for anybody, and a
file's real place is judged on its open descriptor, so that no symbolic link leads out, whenever it is put there. Disk
access happens in worker threads: a slow disk holds up one download and not the pump.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import closing
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway.protocol.http import Headers, Request, http_response, response_head
from gateway.transport.channel import Channel
from gateway.transport.representation import FileFacts, choose, content_type

DEFAULT_CSP: Final = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'"
)
"""Scripts, styles and connections, WebSockets too, only of the page's own origin (CSP Level 3 section 6.7.2.8)."""

CROSS_ORIGIN: Final[Headers] = (
    ("Access-Control-Allow-Origin", "*"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
)

CHUNK_BYTES: Final = 64 * 1024
"""Read and sent at once, and held for as long as the client takes: a thread's hand-over (some 100 µs) is small beside
it, and 256 downloads that stand still are 16 MiB."""

CHUNK_TIMEOUT_SECONDS: Final = 30.0
"""In which a client must take a chunk, 2 KiB a second; a slower one holds a descriptor and a buffer for too long."""

DOWNLOAD_SECONDS: Final = 3600.0
"""For an answer as a whole: a client that takes just enough of it must not stay for ever."""

_INDEX: Final = "index.html"

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("files")


class Folder:
    """A folder and the part of the URL space that it stands for."""

    def __init__(
        self, root: Path, *, match_path: str = "/*", csp: str | None = None, cross_origin: bool = False
    ) -> None:
        """`match_path` is the route's: below `/docs/*`, `/docs/a/b.js` is the file `a/b.js`; `/a/b.js` alone is `b.js`.

        `csp` replaces `DEFAULT_CSP`; it may be folded over several lines. `cross_origin` lets pages of other origins
        load the files, modules too: for what is no secret.
        """
        self.root: Final = root
        self._prefix: Final = match_path[: match_path.rindex("/") + 1]
        self._headers: Final[Headers] = (
            ("Content-Security-Policy", DEFAULT_CSP if csp is None else " ".join(csp.split())),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "same-origin"),
            *(CROSS_ORIGIN if cross_origin else ()),
        )

    def headers(self) -> Headers:
        """What every answer carries now, errors too."""
        return (("Date", formatdate(usegmt=True)), *self._headers)

    def is_root(self, path: str) -> bool:
        """Whether a decoded URL path names the folder itself, but for the slash at its end."""
        return f"{path}/" == self._prefix

    def locate(self, path: str) -> str | None:
        """The file that a decoded URL path names, relative to the folder: `a/b.html`, and `a/index.html` for `a/`.

        None for a path outside the prefix and for one that no file may have: with an empty segment or one that begins
        with a dot, with a backslash or a NUL.
        """
        if not path.startswith(self._prefix):
            return None
        *folders, name = path.removeprefix(self._prefix).split("/")
        segments = (*folders, name or _INDEX)
        if any(not segment or segment.startswith(".") for segment in segments) or "\\" in path or "\0" in path:
            return None
        return "/".join(segments)


class _OpenFile:
    """A regular file below its folder, open for reading; used from one thread at a time."""

    def __init__(self, descriptor: int, facts: FileFacts) -> None:
        self.facts: Final = facts
        self._descriptor = descriptor

    def read(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start`; fewer than asked for at the file's end only."""
        return os.pread(self._descriptor, size, start)

    def close(self) -> None:
        """Ends it; may be called once."""
        os.close(self._descriptor)


def _open(root: Path, relative: str) -> _OpenFile | None:
    """The file at `relative`, None for a folder. Raises OSError: ENOENT also for what is no file or lies outside."""
    root_descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # O_PATH opens nothing yet: a pipe or a device that a link leads to must not even be touched.
        descriptor = os.open(relative, os.O_PATH | os.O_CLOEXEC, dir_fd=root_descriptor)
        try:
            if not _real_path(descriptor).startswith(_real_path(root_descriptor)):
                raise FileNotFoundError(errno.ENOENT, "outside of the folder", relative)
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                return None
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a file", relative)
            readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(descriptor)
    finally:
        os.close(root_descriptor)
    facts = FileFacts(size=status.st_size, modified_nanoseconds=status.st_mtime_ns, content_type=content_type(relative))
    return _OpenFile(readable, facts)


def _real_path(descriptor: int) -> str:
    """Where an open file or folder really is, ending in a slash."""
    return os.readlink(f"/proc/self/fd/{descriptor}").rstrip("/") + "/"


async def serve_file(
    folder: Folder,
    request: Request,
    channel: Channel,
    *,
    on_response: Callable[[int], None] = lambda _: None,
    headers: Headers = (),
) -> bool:
    """Answers a GET or HEAD request from `folder`; `on_response` is told the status once the head is sent.

    `headers` are added to the folder's own.

    Returns whether the connection may carry another request; if not, it has been ended. Raises OSError when the client
    goes away, `trio.TooSlowError` never: a client that does not take its answer in time is left. After a cancellation
    the channel is good for nothing but `close`.
    """
    try:
        with trio.fail_after(CHUNK_TIMEOUT_SECONDS) as patience:
            keeps = await _Answer(folder, request, channel, on_response, patience, headers).send()
    except trio.TooSlowError:
        channel.close()
        return False
    if not keeps:
        await channel.finish()
    return keeps


class _Answer:
    """The answering of one request."""

    def __init__(
        self,
        folder: Folder,
        request: Request,
        channel: Channel,
        on_response: Callable[[int], None],
        patience: trio.CancelScope,
        headers: Headers,
    ) -> None:
        self._headers = (*headers, *folder.headers())
        self._folder = folder
        self._request = request
        self._channel = channel
        self._on_response = on_response
        self._patience = patience

    async def send(self) -> bool:
        """Whether the connection may carry another request."""
        if self._folder.is_root(self._request.path):
            return await self._redirect()
        relative = self._folder.locate(self._request.path)
        if relative is None:
            return await self._refuse(HTTPStatus.NOT_FOUND)
        try:
            file = await trio.to_thread.run_sync(_open, self._folder.root, relative)
        except OSError as error:
            return await self._refuse(self._status_for(error))
        if file is None:
            return await self._redirect()
        with closing(file):
            return await self._send_file(file)

    def _status_for(self, error: OSError) -> HTTPStatus:
        if error.errno in _ABSENT:
            return HTTPStatus.NOT_FOUND
        if isinstance(error, PermissionError):
            return HTTPStatus.FORBIDDEN
        _log.error("file_not_read", path=self._request.path, problem=str(error))
        return HTTPStatus.INTERNAL_SERVER_ERROR

    async def _send_file(self, file: _OpenFile) -> bool:
        reply = choose(self._request, file.facts)
        keeps = self._request.keep_alive
        await self._send(
            reply.status,
            response_head(
                reply.status,
                (*reply.headers, *self._headers),
                content_length=reply.content_length,
                keep_alive=keeps,
            ),
        )
        position = reply.start
        end = trio.current_time() + DOWNLOAD_SECONDS
        while position < reply.end:
            self._patience.deadline = min(end, trio.current_time() + CHUNK_TIMEOUT_SECONDS)
            try:
                chunk = await trio.to_thread.run_sync(file.read, position, min(CHUNK_BYTES, reply.end - position))
            except OSError as error:
                _log.error("file_not_read", path=self._request.path, problem=str(error))
                return False
            if not chunk:
                # The file was cut while it was sent. The promised length cannot be kept: only ending tells the client.
                return False
            await self._channel.send_all(chunk)
            position += len(chunk)
        return keeps

    async def _redirect(self) -> bool:
        # To where the page's relative links lead below the folder. The reader let no path pass that begins with two
        # slashes, which would lead to another host.
        query = f"?{self._request.query}" if self._request.query else ""
        location = ("Location", f"{self._request.raw_path}/{query}")
        return await self._refuse(HTTPStatus.PERMANENT_REDIRECT, (location,))

    async def _refuse(self, status: HTTPStatus, headers: Headers = ()) -> bool:
        response = http_response(
            status,
            f"{status.phrase}\n".encode(),
            (
                *headers,
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Cache-Control", "no-cache"),
                *self._headers,
            ),
            head_only=self._request.method == "HEAD",
            keep_alive=self._request.keep_alive,
        )
        await self._send(status, response)
        return self._request.keep_alive

    async def _send(self, status: int, data: bytes) -> None:
        await self._channel.send_all(data)
        self._on_response(status)
