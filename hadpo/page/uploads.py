"""Pictures from strangers: checked in memory, before any file is made of them.

One whole PNG, JPEG or WebP picture is taken, with nothing behind it. Everything else (other
formats, scripts with the name of a picture, pictures that unpack to gigabytes, names that are
paths) is refused with a sentence that says why, and what to do.
"""

# pyright: reportMissingImports=false
# (the extra `page` may be absent)

import asyncio
import io
from pathlib import PurePosixPath

from PIL import Image, ImageOps
from starlette.datastructures import MutableHeaders  # pyright: ignore[reportMissingImports]
from starlette.formparsers import MultiPartException, MultiPartParser  # pyright: ignore[reportMissingImports]
from starlette.requests import ClientDisconnect, Request  # pyright: ignore[reportMissingImports]
from starlette.responses import PlainTextResponse  # pyright: ignore[reportMissingImports]
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # pyright: ignore[reportMissingImports]

from hadpo.records import BadInput

LARGEST_BYTES = 10 * 1000 * 1000
LARGEST_PIXELS = 40 * 1000 * 1000  # of a phone's camera; a larger picture is not decoded
LONGEST_SIDE_PIXELS = 1024  # of the picture that is shown and asked about; models see at most 448
ENDINGS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
_LAST_BYTES = {"PNG": b"\0\0\0\0IEND\xae\x42\x60\x82", "JPEG": b"\xff\xd9"}
_FORM_BYTES = 100_000  # of the form around the file
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
    if is_path or not name.isprintable():
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
    return picture.convert("RGB")


class Gate:
    """Stands before the page: an upload that is no picture is answered here, and becomes no file.

    It also tells the browser to fetch nothing from anywhere else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "POST" and scope["path"].endswith("/upload"):
            body, size = await _read_body(Request(scope, receive))
            complaint = await _complaint(scope, body, size)
            if complaint:
                await PlainTextResponse(complaint, status_code=400)(scope, receive, send)
                return
            receive = _replay(body, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _read_body(request: Request) -> tuple[bytes, int]:
    """The body of a request, and its size; of one that is too large no byte is stored."""
    body, size = bytearray(), 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size <= LARGEST_BYTES + _FORM_BYTES:
                body += piece
            else:
                body.clear()
    except ClientDisconnect:
        body.clear()
    return bytes(body), size


async def _complaint(scope: Scope, body: bytes, size: int) -> str:
    """What is wrong with an upload; "" if it is one good picture or several."""
    if size > LARGEST_BYTES + _FORM_BYTES:
        return _too_large(size)
    request = Request(scope, _replay(body))
    try:
        parser = MultiPartParser(request.headers, request.stream(), max_files=4, max_fields=4)
        parser.spool_max_size = LARGEST_BYTES + _FORM_BYTES  # never a file, not even without name
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


def _replay(body: bytes, receive: Receive | None = None) -> Receive:
    """A receive that gives a body which was read before, then what `receive` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        if messages or receive is None:
            return messages.pop()
        return await receive()

    return replay
