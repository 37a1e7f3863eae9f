"""Pictures from strangers: they come as text in a request and never become a file.

One whole PNG, JPEG or WebP picture is taken, with nothing behind it. Everything else (other
formats, scripts with the name of a picture, pictures that unpack to gigabytes, names that are
paths) is refused with a sentence that says why, and what to do.
"""

# pyright: reportMissingImports=false
# (the extra `page` may be absent)

import base64
import contextlib
import io
import json
import logging
from pathlib import PurePosixPath
from typing import Any

from PIL import Image, ImageOps
from starlette.datastructures import MutableHeaders  # pyright: ignore[reportMissingImports]
from starlette.exceptions import HTTPException  # pyright: ignore[reportMissingImports]
from starlette.requests import ClientDisconnect, Request  # pyright: ignore[reportMissingImports]
from starlette.responses import PlainTextResponse  # pyright: ignore[reportMissingImports]
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # pyright: ignore[reportMissingImports]

from hadpo.images import to_rgb
from hadpo.records import BadInput

log = logging.getLogger(__name__)
LARGEST_BYTES = 10 * 1000 * 1000
LARGEST_PIXELS = 40 * 1000 * 1000  # of a phone's camera; a larger picture is not decoded
LONGEST_SIDE_PIXELS = 1024  # of the picture that is shown and asked about; models see at most 448
ENDINGS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
_LAST_BYTES = {"PNG": b"\0\0\0\0IEND\xae\x42\x60\x82", "JPEG": b"\xff\xd9"}
_LARGEST_REQUEST = LARGEST_BYTES * 4 // 3 + 100_000  # bytes: a picture in base64, and its frame
_LONGEST_NAME = 200  # bytes
_POSTED = {f"/gradio_api/{name}" for name in ("queue/join", "run/predict", "cancel", "reset")}
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


def read_upload(text: str) -> tuple[str, Image.Image]:
    """Name and picture of what the page's script sends: a file's name, bytes, and data URL.

    Raises:
        BadInput: as `read_picture`, or it is of another form.
    """
    try:
        sent = json.loads(text)
        name, size = str(sent["name"]), int(sent["size"])
        content = base64.b64decode(str(sent["data"]).partition(",")[2], validate=True)
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise BadInput("no file came; choose it again") from error
    if size > LARGEST_BYTES:
        raise BadInput(_too_large(size))
    return name, read_picture(name, content)


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


class Gate:
    """Stands before the page and answers what must not reach it.

    A request that names a file is refused, and so are one that a page of another site sends, one
    that is too large, and every address that this page does not use. The browser is told to fetch
    nothing from anywhere else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        is_post = scope["method"] not in ("GET", "HEAD")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
                if is_post and message["status"] == 500:  # gradio broke on an odd request
                    message["status"] = 400
            await send(message)

        answer = self._app
        try:
            if is_post:
                receive = await _receive_again(Request(scope, receive), receive)
            else:
                _check_address(scope["path"])
        except HTTPException as refusal:
            answer = PlainTextResponse(refusal.detail, status_code=refusal.status_code)
        try:
            await answer(scope, receive, send_with_headers)
        except Exception as error:
            if not is_post:
                raise
            log.warning("a request was refused: %s: %s", type(error).__name__, error)


def _check_address(path: str) -> None:
    """Refuse addresses by which the page would fetch something from elsewhere."""
    _, is_file, name = path.partition("/file=")
    if "/proxy=" in path or (is_file and not name.startswith("/")):
        raise HTTPException(403, "this page fetches nothing from elsewhere")


async def _receive_again(request: Request, receive: Receive) -> Receive:
    """What gives the body of a request once more, which was read here; refuses a wrong one."""
    origin = request.headers.get("origin")  # programs send none
    site = request.headers.get("sec-fetch-site", "none")
    own = f"http://{request.headers.get('host', '')}"
    if (origin is not None and origin != own) or site not in ("none", "same-origin"):
        raise HTTPException(403, "requests from pages of other sites are refused")
    body, size = bytearray(), 0
    with contextlib.suppress(ClientDisconnect):
        async for piece in request.stream():  # all of it, or the sender would not hear the answer
            size += len(piece)
            body += piece if size <= _LARGEST_REQUEST else b""
    if request.method != "POST" or request.url.path.rstrip("/") not in _POSTED:
        raise HTTPException(403, "this page does not use this address")
    if size > _LARGEST_REQUEST:
        raise HTTPException(400, "the request is too large")
    try:
        values = json.loads(body)
        # The event's data say which picture of the gallery was picked; nothing of them is read.
        names_file = isinstance(values, dict) and _names_file(values.get("data"))
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the request is no JSON") from error
    if names_file:
        raise HTTPException(403, "this page reads no file that a request names")
    messages: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _names_file(value: Any) -> bool:
    """Whether a file or an address stands in a value, at any depth."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    named = isinstance(value, dict) and value.keys() & {"path", "url", "meta"}
    return bool(named) or any(map(_names_file, inner))
