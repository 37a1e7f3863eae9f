"""Pictures from strangers: checked in memory, before any file is made of them.

What is taken is one whole PNG, JPEG or WebP picture and nothing beside it. Everything else (other
formats, scripts in a picture's clothes, pictures that unpack to gigabytes, names that are paths) is
refused with a sentence that says why, and what to do.
"""

import asyncio
import io
import struct
import warnings
from pathlib import PurePosixPath

from PIL import Image, ImageOps
from starlette.formparsers import MultiPartException, MultiPartParser  # pyright: ignore[reportMissingImports]
from starlette.requests import Request  # pyright: ignore[reportMissingImports]
from starlette.responses import PlainTextResponse  # pyright: ignore[reportMissingImports]
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # pyright: ignore[reportMissingImports]

from hadpo.records import BadInput

LARGEST_BYTES = 10 * 1000 * 1000
LARGEST_PIXELS = 40 * 1000 * 1000  # of a phone's camera; more is unpacked by nobody
LONGEST_SIDE_PIXELS = 1024  # what is kept; no model here looks at more than 448
ENDINGS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_WHAT_TO_DO = "save it anew as PNG, JPEG or WebP and try again"


def read_picture(name: str, content: bytes) -> Image.Image:
    """The picture in the bytes of an upload, upright, in RGB and no larger than is useful.

    Raises:
        BadInput: says what is wrong with it, and what to do.
    """
    _check_name(name)
    if len(content) > LARGEST_BYTES:
        raise BadInput(too_large(len(content)))
    ending = PurePosixPath(name).suffix.lower().removeprefix(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # counted below
        try:
            with Image.open(io.BytesIO(content), formats=sorted({*ENDINGS.values()})) as picture:
                if picture.width * picture.height > LARGEST_PIXELS:
                    raise BadInput(
                        f"{name}: too many pixels ({picture.width} x {picture.height}); at most "
                        f"{LARGEST_PIXELS // 1_000_000} million are taken: make it smaller"
                    )
                form = str(picture.format)
                if ENDINGS[ending] != form:
                    raise BadInput(f"{name}: the content is {form}, not {ending}; {_WHAT_TO_DO}")
                if extra := len(content) - _end(content, form):
                    raise BadInput(
                        f"{name}: {extra} bytes that are no part of the picture; {_WHAT_TO_DO}"
                    )
                picture.load()
                upright = ImageOps.exif_transpose(picture)
                plain = _over_white(upright)
        except BadInput:
            raise
        except (OSError, SyntaxError, ValueError, struct.error, IndexError, MemoryError) as error:
            raise BadInput(f"{name}: no readable PNG, JPEG or WebP picture; {_WHAT_TO_DO}") from (
                error
            )
        except Image.DecompressionBombError as error:
            raise BadInput(f"{name}: far too many pixels; make it smaller") from error
    plain.thumbnail((LONGEST_SIDE_PIXELS, LONGEST_SIDE_PIXELS))
    return plain


def too_large(size: int) -> str:
    """What is said of too many bytes."""
    return (
        f"the file has {size / 1e6:.0f} MB; at most {LARGEST_BYTES / 1e6:.0f} MB are taken: "
        "make the picture smaller"
    )


def _check_name(name: str) -> None:
    is_path = any(sign in name for sign in "/\\\0:") or name.startswith(".") or ".." in name
    if is_path or not name.isprintable():
        raise BadInput(f"{name!r}: a file name, not a path, is wanted; rename the file")
    ending = PurePosixPath(name).suffix.lower().removeprefix(".")
    if ending not in ENDINGS:
        raise BadInput(f"{name}: not a PNG, JPEG or WebP picture by its name; {_WHAT_TO_DO}")


def _over_white(picture: Image.Image) -> Image.Image:
    """What a viewer shows: transparent parts are white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        colours = picture.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return picture.convert("RGB")


def _end(content: bytes, form: str) -> int:
    """Where the picture in `content` ends."""
    return {"PNG": _png_end, "JPEG": _jpeg_end, "WEBP": _webp_end}[form](content)


def _png_end(content: bytes) -> int:
    at = 8
    while True:
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind = content[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at


def _webp_end(content: bytes) -> int:
    (length,) = struct.unpack("<I", content[4:8])
    return 8 + length + length % 2


def _jpeg_end(content: bytes) -> int:
    """Behind the end mark of the picture itself, not of a preview inside one of its segments."""
    at = 2
    while True:
        at = content.index(b"\xff", at)
        mark = content[at + 1]
        if mark == 0xD9:
            return at + 2
        if mark in (0x00, 0xFF) or mark in _JPEG_WITHOUT_LENGTH:
            at += 1 if mark == 0xFF else 2
            continue
        (length,) = struct.unpack(">H", content[at + 2 : at + 4])
        at += 2 + length


class Gate:
    """Stands before the page: an upload that is no picture gets its answer here, and no file.

    It also tells the browser to fetch nothing from anywhere else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "POST" and scope["path"].endswith("/upload"):
            body = await _whole_body(receive)
            complaint = await _complaint(scope, body)
            if complaint:
                await PlainTextResponse(complaint, status_code=400)(scope, receive, send)
                return
            receive = _again(body or b"", receive)
        await self._app(scope, receive, _with_policy(send))


async def _whole_body(receive: Receive) -> bytes | int:
    """The request's body; if it is too large, how large: it is read to its end and forgotten."""
    body, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return size
        piece = message.get("body", b"")
        size += len(piece)
        if size <= LARGEST_BYTES + 100_000:  # the form around the file
            body += piece
        else:
            body.clear()
        if not message.get("more_body", False):
            return bytes(body) if size <= LARGEST_BYTES + 100_000 else size


async def _complaint(scope: Scope, body: bytes | int) -> str:
    """What is wrong with an upload; "" if it is one good picture or several."""
    if isinstance(body, int):
        return too_large(body)
    request = Request(scope)
    stream = _pieces(body)
    try:
        parser = MultiPartParser(request.headers, stream, max_files=4, max_fields=4)
        parser.spool_max_size = LARGEST_BYTES + 100_000  # never a file, not even a nameless one
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError):
        return "this is no form with a file in it"
    try:
        for value in form.getlist("files"):
            if isinstance(value, str):
                return "a file is expected, found text"
            content = await value.read()
            await asyncio.to_thread(read_picture, value.filename or "", content)
    except BadInput as error:
        return str(error)
    finally:
        await form.close()
    return "" if form.getlist("files") else "no file was sent"


async def _pieces(body: bytes):
    yield body
    yield b""


def _again(body: bytes | int, receive: Receive) -> Receive:
    """A receive that gives the body that was read once more."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    b"connect-src 'self' blob: data:; worker-src 'self' blob:; frame-ancestors 'self'; "
    b"object-src 'none'; base-uri 'self'; form-action 'self'"
)


def _with_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ())]
            headers += [
                (b"content-security-policy", _POLICY),
                (b"referrer-policy", b"no-referrer"),
                (b"x-content-type-options", b"nosniff"),
            ]
            message = {**message, "headers": headers}
        await send(message)

    return sending
