"""Pictures are opened in one place: what cannot be read rightly is a message there."""

import ast
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hadpo
from hadpo import images
from hadpo.data.images import check
from hadpo.records import BadInput

PACKAGE = Path(hadpo.__file__).parent
_TURNS = {  # EXIF's orientation -> how the stored picture becomes upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def bomb(path, side=30_000):
    """A PNG of a few bytes that says it is `side` pixels wide and high."""

    def chunk(kind, data):
        content = kind + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0" * 64)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def grey(kind, factor=1):
    values = (np.arange(256).reshape(16, 16) * factor).astype(kind)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("picture", "ending", "problem"),
    [
        (grey(np.int32), "tif", r"mode I \(32-bit integers\)"),
        (grey(np.int32, 257), "tif", r"mode I \(32-bit integers\)"),
        (grey(np.float32, 1 / 255), "tif", r"mode F \(floating-point numbers\)"),
        (grey(np.float32), "tif", r"mode F \(floating-point numbers\)"),
        (grey(np.uint16, 16), "png", "none above 4080: it may have a depth of fewer bits"),
        (grey(np.uint16, 4), "png", "none above 1020: it may have a depth of fewer bits"),
        (grey(np.uint16), "tif", "none above 255: it may have a depth of fewer bits"),
    ],
)
def test_a_picture_of_unknown_depth_is_refused(tmp_path, picture, ending, problem):
    path = tmp_path / f"deep.{ending}"
    picture.save(path)
    with pytest.raises(BadInput, match=rf"deep\.{ending}: .*{problem}"):
        images.read_image(path)
    assert "it is not known what is white" in check(path).problem


def test_sixteen_bits_become_the_upper_eight(tmp_path):
    Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)).save(tmp_path / "a.png")
    found = np.asarray(images.read_image(tmp_path / "a.png"))
    assert (found[..., 0].reshape(-1) == np.arange(65536) // 256).all()
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()
    Image.new("I;16", (4, 4)).save(tmp_path / "black.png")  # black at any depth
    assert np.asarray(images.read_image(tmp_path / "black.png")).max() == 0


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_read_upright_or_as_they_are_stored(tmp_path, ending, orientation):
    """By what the file says (1: as it is); who turns the picture again finds nothing to turn.

    Pillow turns TIFFs as it opens them, and so it did for the originals.
    """
    stored = Image.new("RGB", (24, 16), "black")
    stored.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    path = tmp_path / f"a.{ending}"
    stored.save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    turned = stored.transpose(_TURNS[orientation]) if orientation in _TURNS else stored
    as_opened = turned if ending == "tif" else stored
    for how, expected in (("upright", turned), ("as_stored", as_opened)):
        found = images.read_image(path, exif=how)
        assert images.read_size(path, exif=how) == found.size == expected.size
        for picture in (found, images.to_rgb(found)):
            assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() < 32


def test_what_is_no_picture_is_named(tmp_path):
    bomb(tmp_path / "bomb.png")
    with pytest.raises(BadInput, match=r"bomb\.png: too large to be a photo"):
        images.read_image(tmp_path / "bomb.png")
    assert "too large" in check(tmp_path / "bomb.png").problem
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "cut.png").write_bytes(bomb(tmp_path / "b.png", 64).read_bytes()[:-20])
    (tmp_path / "text.png").write_bytes(
        bomb(tmp_path / "b.png", 4).read_bytes()[:40] + b"\xff" * 99
    )
    # A program for Ghostscript: Pillow would have it run.
    (tmp_path / "program.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "rare.png", "SGI")
    for name in ("page.jpg", "cut.png", "text.png", "program.jpg", "rare.png"):
        with pytest.raises(BadInput, match=rf"{name}: no readable image"):
            images.read_image(tmp_path / name)
    with pytest.raises(BadInput, match=r"no image .*none\.png; fix the path"):
        images.read_image(tmp_path / "none.png")


@pytest.mark.parametrize("form", images._FORMATS)
def test_the_usual_formats_are_read(tmp_path, form):
    path = tmp_path / "a.jpg"  # the web names pictures as it likes
    try:
        Image.new("RGB", (16, 16), "red").save(path, form)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {form}")
    found = images.read_image(path)
    assert found.size == (16, 16)
    assert all(abs(a - b) < 9 for a, b in zip(found.getpixel((2, 2)), (255, 0, 0), strict=True))


def test_pictures_are_opened_nowhere_else():
    """`page.uploads` reads bytes of strangers by stricter rules of its own."""
    places = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "Image.open",
                "PIL.Image.open",
            ):
                places.add(path.relative_to(PACKAGE).as_posix())
    assert places == {"images.py", "page/uploads.py"}
