import base64
import io
import json
import struct
import zlib

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page's extra is absent: pip install -e '.[page]'")

from hadpo.page.uploads import LARGEST_BYTES, LONGEST_SIDE_PIXELS, read_picture, read_upload
from hadpo.records import BadInput

pytestmark = pytest.mark.extra


def picture(form: str, size=(40, 30), mode="RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(file, form, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it has 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 3_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
BAD = {
    "too many bytes": ("a.png", b"\x89PNG" + bytes(50_000_000), "50 MB; at most 10 MB"),
    "too many pixels": ("a.png", bomb(), "too many pixels"),
    "svg": ("a.svg", SVG, "not a PNG, JPEG or WebP picture by its name"),
    "svg by another name": ("a.png", SVG, "no readable"),
    "zip behind png": ("a.png", picture("PNG") + b"PK\x03\x04" + bytes(40), "44 bytes that are no"),
    "html behind jpeg": ("a.jpg", picture("JPEG") + b"<html>", "6 bytes that are no part"),
    "script behind webp": ("a.webp", picture("WEBP") + b"<script>", "8 bytes that are no"),
    "gif": ("a.png", picture("GIF"), "no readable"),
    "jpeg by another name": ("a.png", picture("JPEG"), "the content is JPEG, not png"),
    "no ending": ("a", picture("PNG"), "by its name"),
    "path": ("../../etc/a.png", picture("PNG"), "a file name, not a path"),
    "windows path": ("C:\\a.png", picture("PNG"), "a file name, not a path"),
    "hidden": (".a.png", picture("PNG"), "a file name, not a path"),
    "null": ("a\0.png", picture("PNG"), "a file name, not a path"),
    "torn": ("a.png", picture("PNG")[:200], "no readable"),
    "torn jpeg": ("a.jpg", picture("JPEG", (200, 200))[:900], "no readable"),
    "empty": ("a.png", b"", "no readable"),
    "long name": ("x" * 300 + ".png", picture("PNG"), "rename the file"),
}


def sent(name: str, content: bytes, **other) -> str:
    """What the page's script makes of a file."""
    data = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return json.dumps({"name": name, "size": len(content), "data": data} | other)


def test_what_the_script_sends_is_a_picture_or_refused():
    name, found = read_upload(sent("a.png", picture("PNG")))
    assert (name, found.size) == ("a.png", (40, 30))
    with pytest.raises(BadInput, match="50 MB; at most 10 MB"):
        read_upload(sent("a.png", b"", size=50_000_000))
    with pytest.raises(BadInput, match="a file name, not a path"):
        read_upload(sent("../a.png", picture("PNG")))


@pytest.mark.parametrize(
    "text", [None, "", "5", "[]", "{}", "[" * 90_000, sent("a", b"", data="data:,%"), *(
        sent("a.png", b"", size=size) for size in (None, "x", float("inf"), float("nan"))
    )]
)  # fmt: skip
def test_what_the_script_never_sends_is_refused(text):
    with pytest.raises(BadInput, match="no file came"):
        read_upload(text)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_refused_with_its_reason(name):
    file, content, reason = BAD[name]
    with pytest.raises(BadInput) as error:
        read_picture(file, content)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("name", "form", "options"),
    [
        ("a.png", "PNG", {}),
        ("a.JPG", "JPEG", {}),
        ("a b.jpeg", "JPEG", {"progressive": True}),
        ("a.webp", "WEBP", {}),
        ("a.webp", "WEBP", {"lossless": True}),
        ("ü.png", "PNG", {"mode": "RGBA"}),
        ("a.png", "PNG", {"mode": "P"}),
    ],
)
def test_a_good_one_is_taken(name, form, options):
    found = read_picture(name, picture(form, **options))
    assert (found.mode, found.size) == ("RGB", (40, 30))


def test_a_preview_inside_a_jpeg_is_not_its_end():
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    inner = picture("JPEG", (16, 16))
    outer = picture("JPEG", exif=exif, comment=inner)
    assert read_picture("a.jpg", outer).size == (30, 40)


def test_a_large_one_is_made_smaller():
    found = read_picture("a.jpg", picture("JPEG", (3000, 2000), quality=30))
    assert found.size == (LONGEST_SIDE_PIXELS, 683)
    assert LARGEST_BYTES == 10_000_000


def test_deep_pictures_are_read_rightly_or_refused():
    import io

    import numpy as np
    from PIL import Image

    def png(values):
        file = io.BytesIO()
        Image.fromarray(values.astype(np.uint16)).save(file, "PNG")
        return file.getvalue()

    grey = np.arange(256).reshape(16, 16)
    shown = np.asarray(read_picture("a.png", png(grey * 257)))
    assert (shown[..., 0] == grey).all()
    with pytest.raises(BadInput, match="a depth of fewer bits"):
        read_picture("a.png", png(grey * 16))
