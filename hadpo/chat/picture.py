"""A picture inside a request: a data URL, its hash, and about how many tokens it costs."""

import base64
import functools
import io
from pathlib import Path

from hadpo.images import ORIENTATION, open_image, to_rgb
from hadpo.records import BadInput, file_hash

_SENT_AS_IT_IS = ("JPEG", "PNG", "WEBP")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # 8 bits a channel at most
# One token for each 28 x 28 pixels (Qwen-VL), and as many as GPT-4o counts for a large picture.
_PIXELS_PER_TOKEN = 28 * 28
_LEAST_TOKENS = 1105


def data_url(path: Path) -> str:
    """The picture as a data URL: the file's own bytes, or an upright PNG of the same pixels.

    Files that servers read differently (turned by EXIF, of other formats) become a PNG.

    Raises:
        BadInput: no such file, no picture, or one of more than 8 bits a channel.
    """
    with open_image(path) as image:
        kind, mode = image.format or "", image.mode
        if mode not in _MODES:
            raise BadInput(
                f"a picture of mode {mode!r}; a server is sent pictures of 8 bits a channel: "
                "convert it"
            )
        turned = image.getexif().get(ORIENTATION, 1) != 1
        image.load()
        content = path.read_bytes()
        if kind not in _SENT_AS_IT_IS or mode in ("CMYK", "YCbCr") or turned:
            file = io.BytesIO()
            to_rgb(image).save(file, "PNG")
            kind, content = "PNG", file.getvalue()
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"


def picture_tokens(path: Path) -> float:
    """Estimated tokens of a picture; 0 for one that is not there, which is never sent."""
    try:
        with open_image(path) as image:
            return max(_LEAST_TOKENS, image.width * image.height / _PIXELS_PER_TOKEN)
    except BadInput:
        return 0.0


def picture_hash(path: Path) -> str:
    """SHA-256 of a picture's file, read once while it stays the same; BadInput if it is absent."""
    try:
        status = path.stat()
        return _hash(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise BadInput(f"{path}: no readable image ({error}); replace or remove it") from error


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, size: int, changed: int) -> str:
    return file_hash(path)
