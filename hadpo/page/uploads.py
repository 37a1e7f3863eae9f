"""Pictures from strangers: checked in memory, before any file is made of them.

One whole PNG, JPEG or WebP picture is taken, with nothing behind it. Everything else (other
formats, scripts with the name of a picture, pictures that unpack to gigabytes, names that are
paths) is refused with a sentence that says why, and what to do.
"""

# pyright: reportMissingImports=false
# (the extra `page` may be absent)

import asyncio
import contextlib
import io
import json
import secrets
import threading
import time
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageOps
from starlette.datastructures import MutableHeaders  # pyright: ignore[reportMissingImports]
from starlette.formparsers import MultiPartException, MultiPartParser  # pyright: ignore[reportMissingImports]
from starlette.requests import ClientDisconnect, Request  # pyright: ignore[reportMissingImports]
from starlette.responses import JSONResponse, PlainTextResponse, Response  # pyright: ignore[reportMissingImports]
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # pyright: ignore[reportMissingImports]

from hadpo.images import to_rgb
from hadpo.records import BadInput

LARGEST_BYTES = 10 * 1000 * 1000
LARGEST_PIXELS = 40 * 1000 * 1000  # of a phone's camera; a larger picture is not decoded
LONGEST_SIDE_PIXELS = 1024  # of the picture that is shown and asked about; models see at most 448
ENDINGS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
_LAST_BYTES = {"PNG": b"\0\0\0\0IEND\xae\x42\x60\x82", "JPEG": b"\xff\xd9"}
_FORM_BYTES = 100_000  # of the form around the file, and of any other request
_LONGEST_NAME = 200  # bytes
_MOST_FILES = 16  # that lie there
_LONGEST_SECONDS = 600.0  # that one lies there
_API = "/gradio_api"
_UPLOAD = f"{_API}/upload"
_POSTED = {_UPLOAD, *(f"{_API}/{x}" for x in ("queue/join", "run/predict", "cancel", "reset"))}
_FILE = {"_type": "gradio.FileData"}
_WHAT_TO_DO = "save it anew as PNG, JPEG or WebP and try again"
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' blob: data:; worker-src 'self' blob:; frame-ancestors 'self'; "
        "object-src 'none'; base-uri 'self'; form-action 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def read_picture(name: str, content: bytes) -> Image.Image:
    """The picture in the bytes of an upload, upright, in RGB and no larger than is useful.

    Raises:
        BadInput: says what is wrong with it, and what to do.
    """
    ending = _ending_of(name)
    if len(content) > LARGEST_BYTES:
        raise BadInput(_too_large(len(content)))
    file = io.BytesIO(content)
    try:
        with Image.open(file, formats=sorted({*ENDINGS.values()})) as picture:
            if picture.width * picture.height > LARGEST_PIXELS:
                raise BadInput(
                    f"{name}: too many pixels ({picture.width} x {picture.height}); at most "
                    f"{LARGEST_PIXELS // 1_000_000} million are taken: make it smaller"
                )
            form = str(picture.format)
            if ENDINGS[ending] != form:
                raise BadInput(f"{name}: the content is {form}, not {ending}; {_WHAT_TO_DO}")
            if extra := len(content) - _end(content, form, file.tell()):
                raise BadInput(
                    f"{name}: {extra} bytes that are no part of the picture; {_WHAT_TO_DO}"
                )
            picture.load()
            plain = _over_white(ImageOps.exif_transpose(picture))
    except BadInput:
        raise
    except Image.DecompressionBombError as error:
        raise BadInput(f"{name}: far too many pixels; make it smaller") from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise BadInput(f"{name}: no readable PNG, JPEG or WebP picture; {_WHAT_TO_DO}") from error
    plain.thumbnail((LONGEST_SIDE_PIXELS, LONGEST_SIDE_PIXELS))
    return plain


def _too_large(size: int) -> str:
    return (
        f"the file has {size / 1e6:.0f} MB; at most {LARGEST_BYTES / 1e6:.0f} MB are taken: "
        "make the picture smaller"
    )


def _ending_of(name: str) -> str:
    """The ending of a file's name; BadInput if it is a path, or that of another format."""
    is_path = any(sign in name for sign in "/\\\0:") or name.startswith(".") or ".." in name
    if is_path or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        raise BadInput(f"{name!r}: a file name, not a path, is expected; rename the file")
    ending = PurePosixPath(name).suffix.lower().removeprefix(".")
    if ending not in ENDINGS:
        raise BadInput(f"{name}: not a PNG, JPEG or WebP picture by its name; {_WHAT_TO_DO}")
    return ending


def _end(content: bytes, form: str, pixels: int) -> int:
    """Where the picture ends. Its pixels begin at `pixels`: previews lie before, and do not count.

    Raises:
        ValueError: it has no end.
    """
    if form == "WEBP":
        length = int.from_bytes(content[4:8], "little")
        return 8 + length + length % 2
    return content.index(_LAST_BYTES[form], pixels) + len(_LAST_BYTES[form])


def _over_white(picture: Image.Image) -> Image.Image:
    """What a viewer shows: transparent parts are white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        colours = picture.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return to_rgb(picture)


class Uploads:
    """Pictures that visitors sent and that the page has not taken yet, in files of its own folder.

    A file's path has a part that cannot be guessed, so only who sent it can name it. What lies
    there is limited in bytes, number and age: the oldest go first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._files: dict[str, tuple[float, int]] = {}  # path -> when it came, bytes; oldest first

    def add(self, name: str, content: bytes) -> str:
        """Keep a picture; the path by which its sender names it."""
        with self._lock:
            self._drop_old(room=len(content))
            path = self.folder / secrets.token_hex(16) / name
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            self._files[str(path)] = (time.monotonic(), len(content))
            return str(path)

    def has(self, path: object) -> bool:
        """Whether a path is that of a picture that lies here."""
        with self._lock:
            self._drop_old()
            return path in self._files

    def take(self, path: str) -> tuple[str, bytes]:
        """Name and bytes of a picture, which no longer lies here; BadInput if it does not."""
        with self._lock:
            if path not in self._files:
                raise BadInput("this picture is not there any more; upload it again")
            content = Path(path).read_bytes()
            self._delete(path)
            return Path(path).name, content

    def _drop_old(self, *, room: int = 0) -> None:
        limit = time.monotonic() - _LONGEST_SECONDS
        while self._files:
            path, (came, _) = next(iter(self._files.items()))
            bytes_in_all = room + sum(size for _, size in self._files.values())
            is_full = len(self._files) + bool(room) > _MOST_FILES or bytes_in_all > LARGEST_BYTES
            if came > limit and not is_full:
                return
            self._delete(path)

    def _delete(self, path: str) -> None:
        del self._files[path]
        Path(path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(path).parent.rmdir()


class Gate:
    """Stands before the page and answers what must not reach it.

    An upload is checked here, and lies in `Uploads` if it is a picture. A request that names a
    file names one of these; one that a page of another site sends is refused, and so is every
    address that this page does not use. The browser is told to fetch nothing from anywhere else.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            answer: Response | None = None
            if scope["method"] in ("GET", "HEAD"):
                _check_address(scope["path"])
            else:
                _check_origin(Request(scope))
                answer, receive = await self._posted(scope, receive)
        except _Refused as refusal:
            answer = PlainTextResponse(str(refusal), status_code=refusal.status)
        await (answer or self._app)(scope, receive, send_with_headers)

    async def _posted(self, scope: Scope, receive: Receive) -> tuple[Response | None, Receive]:
        """The answer to an upload; of another request the body that the page may see."""
        request, action = Request(scope, receive), scope["path"].rstrip("/")
        if scope["method"] != "POST" or action not in _POSTED:
            raise _Refused(403, "this page does not use this address")
        if action == _UPLOAD:
            body, size = await _read_body(request, LARGEST_BYTES + _FORM_BYTES)
            pictures = await _pictures(scope, body, size)
            paths = [self._uploads.add(name, content) for name, content in pictures]
            return JSONResponse(paths), receive
        body, size = await _read_body(request, _FORM_BYTES)
        if size > _FORM_BYTES:
            raise _Refused(400, "the request is too large")
        return None, _replay(self._own_files_only(body), receive)

    def _own_files_only(self, body: bytes) -> bytes:
        """The body with nothing but the path of each file that it names; refuses others' files."""
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _Refused(400, "the request is no JSON") from error
        data = values.get("data") if isinstance(values, dict) else None
        stack: list[Any] = [data]
        while stack:
            value = stack.pop()
            if isinstance(value, list):
                stack += value
            elif isinstance(value, dict) and value.keys() & {"path", "url", "meta"}:
                path = value.get("path")
                if not isinstance(path, str) or not self._uploads.has(path):
                    raise _Refused(403, "this is no picture that was uploaded here")
                value.clear()
                value |= {"path": path, "orig_name": Path(path).name, "meta": _FILE}
            elif isinstance(value, dict):
                stack += value.values()
        return json.dumps(values).encode()


class _Refused(Exception):
    """A request is answered here, with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _check_address(path: str) -> None:
    """Refuse addresses by which the page would fetch something from elsewhere."""
    _, is_file, name = path.partition("/file=")
    if "/proxy=" in path or (is_file and not name.startswith("/")):
        raise _Refused(403, "this page fetches nothing from elsewhere")


def _check_origin(request: Request) -> None:
    """Refuse a request that a page of another site has made; programs send no origin."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "none")
    own = f"http://{request.headers.get('host', '')}"
    if (origin is not None and origin != own) or site not in ("none", "same-origin"):
        raise _Refused(403, "requests from pages of other sites are refused")


async def _read_body(request: Request, most: int) -> tuple[bytes, int]:
    """The body of a request, and its size; of one that is too large no byte is stored."""
    body, size = bytearray(), 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size <= most:
                body += piece
            else:
                body.clear()
    except ClientDisconnect:
        body.clear()
    return bytes(body), size


async def _pictures(scope: Scope, body: bytes, size: int) -> list[tuple[str, bytes]]:
    """Name and content of the pictures in an upload; refuses one that is none."""
    if size > LARGEST_BYTES + _FORM_BYTES:
        raise _Refused(400, _too_large(size))
    request = Request(scope, _replay(body))
    try:
        parser = MultiPartParser(request.headers, request.stream(), max_files=4, max_fields=4)
        parser.spool_max_size = LARGEST_BYTES + _FORM_BYTES  # never a file, not even without name
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise _Refused(400, "this is no form with a file in it") from error
    found = []
    try:
        for value in form.getlist("files"):
            if isinstance(value, str):
                raise BadInput("a file is expected, found text")
            name, content = value.filename or "", await value.read()
            await asyncio.to_thread(read_picture, name, content)
            found.append((name, content))
    except BadInput as error:
        raise _Refused(400, str(error)) from error
    finally:
        await form.close()
    if not found:
        raise _Refused(400, "no file was sent")
    return found


def _replay(body: bytes, receive: Receive | None = None) -> Receive:
    """A receive that gives a body which was read before, then what `receive` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        if messages or receive is None:
            return messages.pop()
        return await receive()

    return replay
