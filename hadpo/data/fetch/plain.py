"""One file from a plain address: resumed by ranges, retried, checked, and never half written.

Ours, and no library's: pooch starts over after a cut, and the files here have up to 10 GB.
"""

import errno
import functools
import math
import os
import shutil
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore2
import httpx2

from hadpo.records import file_hash

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: not known)
# Where a URL's host may be asked, None: anywhere; raises FetchFailed if nowhere.
MayAsk = Callable[[str], Sequence[str] | None]
_FINAL = {401, 403, 404, 405, 410, 451}  # asking again would not help
_HOPE = 1 << 20  # bytes in one attempt after which the failures are counted anew
_SPARE = 1 << 26  # bytes that stay free on the disk
_LONGEST_PAUSE = 60.0


class FetchFailed(RuntimeError):
    """Something could not be fetched: the message says what, why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a server, in seconds, and how often to ask again."""

    retries: int = 5
    pause_seconds: float = 1.0  # before the first retry; doubled each time
    timeout_seconds: float = 30.0  # without a byte
    window_seconds: float = 30.0  # over which the speed is measured
    least_bytes_per_second: float = 1000.0  # slower counts as stuck
    most_seconds: float = math.inf  # from the first byte of an answer to the last


STANDARD = Patience()


class _Again(Exception):
    """This attempt failed, and another may not."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


def download(
    url: str,
    target: Path,
    *,
    size: int = 0,
    sha256: str = "",
    most_bytes: float = math.inf,
    may_ask: MayAsk = lambda url: None,
    patience: Patience = STANDARD,
    progress: Progress | None = None,
) -> None:
    """Fetch `url` to the file `target`; what an earlier attempt got is kept and resumed.

    Args:
        url: http or https.
        target: appears when it is complete and right; until then its name ends in `.part`.
        size: published bytes; 0: not known.
        sha256: published hash, or the beginning of it.
        most_bytes: a larger file is given up and deleted.
        may_ask: looks at each address before it is asked, also at those that a server leads on to.
        patience: timeouts and retries.
        progress: called after each chunk.

    Raises:
        FetchFailed: not found, too many failures, the disk is full, or the file is another one.
    """
    if not url.startswith(("http://", "https://")):
        raise FetchFailed(f"{url}: only http and https addresses are fetched")
    if target.is_dir():
        raise FetchFailed(f"{target} is a folder, where a file is expected; move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    pause, failures = patience.pause_seconds, 0
    while True:
        before = _size(part)
        try:
            _attempt(url, part, patience, progress, most_bytes, may_ask)
            break
        except _Again as error:
            failures = 1 if _size(part) - before >= _HOPE else failures + 1
            if failures > patience.retries:
                raise FetchFailed(
                    f"{url}: gave up after {failures} attempts: {error}; {_size(part)} bytes are "
                    "kept, the same command goes on from there"
                ) from error
            time.sleep(min(max(pause * 2 ** (failures - 1), error.seconds), _LONGEST_PAUSE))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FetchFailed(
                f"{url}: the disk of {target.parent} is full; make room, or set HADPO_MODELS or "
                "HADPO_DATA to a folder on a larger disk; the same command goes on from there"
            ) from error
    accept(part, source=url, size=size, sha256=sha256)
    os.replace(part, target)  # noqa: PTH105 - says "atomic"
    _tag(part).unlink(missing_ok=True)


def no_content(path: Path) -> str:
    """What a file is that a failed download left: a web page, a pointer, nothing; or ""."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file; run `git lfs pull` in its folder"
    if start.startswith((b"<!doctype", b"<html")) and path.suffix not in (".html", ".htm"):
        return "a web page, not the file"
    return ""


def other_than_published(path: Path, *, size: int = 0, sha256: str = "") -> str:
    """How a file differs from the published size or hash (or its beginning); "" if it does not."""
    found = path.stat().st_size
    if size and found != size:
        return f"{found} bytes, published are {size}"
    if sha256 and not (digest := file_hash(path)).startswith(sha256):
        return f"wrong checksum: sha256 {digest[:16]}..., published is {sha256}..."
    return ""


def accept(path: Path, *, source: str, size: int = 0, sha256: str = "") -> None:
    """Delete a finished download that is not what was published, and raise FetchFailed."""
    if problem := no_content(path) or other_than_published(path, size=size, sha256=sha256):
        path.unlink()
        _tag(path).unlink(missing_ok=True)
        raise FetchFailed(
            f"{source}: {problem}; the download was deleted. Try again; if it stays, the file was "
            "replaced there, or something in between answers for it"
        )


def check_space(folder: Path, wanted: int, *, source: str) -> None:
    """Refuse what the disk has no room for; FetchFailed says what is needed and what is free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if wanted + _SPARE > free and wanted > 0:
        raise FetchFailed(
            f"{source}: needs {wanted / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free; "
            "make room, or set HADPO_MODELS or HADPO_DATA to a folder on a larger disk"
        )


def _attempt(
    url: str,
    part: Path,
    patience: Patience,
    progress: Progress | None,
    most_bytes: float,
    may_ask: MayAsk,
) -> None:
    network = _Network(patience)

    def check(request: httpx2.Request) -> None:
        network.places[request.url.raw_host.decode()] = may_ask(str(request.url))

    have = _size(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "hadpo"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _tag(part).is_file():
            headers["If-Range"] = _tag(part).read_text(encoding="utf-8")
    try:
        with (
            network.client(
                follow_redirects=True,
                timeout=patience.timeout_seconds,
                event_hooks={"request": [check]},
            ) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            have = _start(response, part, have, url)
            if have < 0:
                return
            total = have + int(response.headers.get("Content-Length", 0) or 0)
            total = total if total > have else 0
            _receive(response, part, have, total, progress, most_bytes)
    except httpx2.TooManyRedirects as error:
        raise FetchFailed(
            f"{url}: redirects in a circle; the address has moved or broken"
        ) from error
    except (httpx2.InvalidURL, UnicodeError) as error:  # a host that no name server takes
        raise FetchFailed(f"{url}: no address that can be read ({error})") from error
    except httpx2.TransportError as error:
        raise _Again(f"{type(error).__name__} {error}".strip()) from error


def _start(response: httpx2.Response, part: Path, have: int, url: str) -> int:
    """Byte at which the body goes on; the part file is cut to it. -1: nothing is left to fetch."""
    status = response.status_code
    if status == 416:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if total == str(have):
            return -1
        part.unlink(missing_ok=True)
        raise _Again(f"the server has {total or 'no'} bytes, the part file {have}; starting over")
    if status in _FINAL or (400 <= status < 500 and status not in (408, 425, 429)):
        what = {404: "not there", 410: "gone", 401: "needs a login", 403: "forbidden"}.get(
            status, ""
        )
        raise FetchFailed(f"{url}: the server answers {status} {what}".rstrip())
    if status >= 400:
        wait = response.headers.get("Retry-After", "")
        raise _Again(f"the server answers {status}", float(wait) if wait.isdigit() else 0.0)
    if status == 206:
        start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if start != str(have):
            part.unlink(missing_ok=True)
            raise _Again(f"the server goes on at {start or 'nowhere'}, not at {have}")
        return have
    tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    if tag and not tag.startswith("W/"):
        _tag(part).write_text(tag, encoding="utf-8")
    part.unlink(missing_ok=True)  # a whole answer: the file has changed, or ranges are not given
    return 0


def _receive(
    response: httpx2.Response,
    part: Path,
    have: int,
    total: int,
    progress: Progress | None,
    most_bytes: float,
) -> None:
    check_space(part.parent, total - have, source=str(response.url))
    with part.open("ab") as file:
        for chunk in response.iter_raw():
            file.write(chunk)
            have += len(chunk)
            if have > most_bytes:
                part.unlink()
                raise FetchFailed(f"{response.url}: too large: more than {most_bytes / 1e6:.0f} MB")
            if progress:
                progress(have, total)
    if total and have < total:
        raise _Again(f"cut off after {have} of {total} bytes")


@functools.cache
def _trusted(*_: str | None) -> ssl.SSLContext:
    """Whose certificates are trusted; to read them anew takes longer than a small file."""
    return httpx2.create_ssl_context()


class _Network(httpcore2.SyncBackend):
    """Connects to where the check of a host looked; a name server that changes its mind is late."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.places: dict[str, Sequence[str] | None] = {}  # by host

    def client(self, **options: Any) -> httpx2.Client:
        """A client whose connections, those to a proxy of the environment too, are of this kind."""
        places = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
        client = httpx2.Client(verify=_trusted(*places), **options)
        for transport in (client._transport, *client._mounts.values()):
            if isinstance(transport, httpx2.HTTPTransport):
                transport._pool._network_backend = self
        return client

    def connect_tcp(self, host: str, *where: Any, **options: Any) -> Any:
        places = self.places.get(host)
        error: Exception = httpcore2.ConnectError(f"{host} is not known")
        for place in (host,) if places is None else places:
            try:
                stream = super().connect_tcp(place, *where, **options)
                return _Stream(stream, self._patience)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as refusal:
                error = refusal
        raise error


class _Stream:
    """A connection; an error if bytes, of the head or the body, come too slowly to ever end."""

    def __init__(self, stream: httpcore2.NetworkStream, patience: Patience) -> None:
        self._stream, self._patience = stream, patience
        self._end = self._started = math.inf  # from the first byte on
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def start_tls(self, *where: Any, **options: Any) -> "_Stream":
        return _Stream(self._stream.start_tls(*where, **options), self._patience)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        chunk = self._stream.read(max_bytes, timeout)
        patience, now = self._patience, time.monotonic()
        self._count += len(chunk)
        self._started = min(self._started, now)
        self._end = min(self._end, now + patience.most_seconds)
        if now > self._end:
            raise _Again(f"not there after {patience.most_seconds:.0f} s")
        if (seconds := now - self._started) > patience.window_seconds:
            if self._count < patience.least_bytes_per_second * seconds:
                raise _Again(f"too slow: {self._count / seconds:.0f} bytes per second")
            self._started, self._count = now, 0
        return chunk


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag(part: Path) -> Path:
    """Which version of the file a part is of, as the server named it."""
    return part.with_name(part.name + ".tag")
