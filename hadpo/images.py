"""Picture files of strangers: opened, checked, and read as a person sees them.

Every place that opens a picture does it here, so that a broken file, a decompression bomb or a
picture whose depth is not known is the same message everywhere, and never a wrong pixel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from hadpo.records import BadInput

ORIENTATION = 0x0112  # EXIF tag: cameras store pictures lying on their side
_LEAST_TURNED = 5  # of the orientations 1 to 8: the sides change places from here on
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # 16 bits a pixel
# Others are rare, or start a program: of EPS, Pillow has Ghostscript run what the file says.
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_LEAST_PEAK = 1 << 14  # of 16 bits: a darker picture may as well have 8, 10, 12 or 14 bits


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """The picture file, open and not decoded; the block does nothing but Pillow's work on it.

    BadInput: no such file, no picture, a broken one, or one that unpacks to too many pixels.
    """
    Image.init()
    try:
        with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
            yield image
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise BadInput(f"no image {path}; fix the path, or fetch the images") from error
    except Image.DecompressionBombError as error:
        raise BadInput(f"{path}: too large to be a photo ({error})") from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise BadInput(f"{path}: no readable image ({error}); replace or remove it") from error


def read_image(path: str | Path, *, exif: str = "upright") -> Image.Image:
    """The picture in a file, decoded, in RGB; raises as `open_image` and `to_rgb` do.

    `exif` is "upright", or "as_stored": as Pillow opens it, which turns no picture but TIFFs.
    """
    with open_image(path) as image:
        if exif == "upright":
            return to_rgb(image)
        image.load()
        image.getexif()[ORIENTATION] = 1
        stored = to_rgb(image)
        stored.info.clear()  # who reads it next would find the orientation of the file
        return stored


def read_size(path: str | Path, *, exif: str = "upright") -> tuple[int, int]:
    """Width and height in pixels, as `read_image` gives the picture, from the file's head."""
    with open_image(path) as image:
        width, height = image.size  # of a TIFF, as Pillow turns it
        orientation = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
    is_turned = exif == "upright" and orientation >= _LEAST_TURNED
    return (height, width) if is_turned else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as a person sees it: turned as its EXIF data says, in RGB.

    Raises:
        BadInput: 32-bit or float pixels, or 16-bit ones so dark that they may have fewer bits: what
            is white in them is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        kind = {"I": "32-bit integers", "F": "floating-point numbers"}[image.mode]
        raise BadInput(f"mode {image.mode} ({kind}); it is not known what is white: save it as RGB")
    if image.mode in _DEEP:
        image = image.convert("I")
        _, peak = image.getextrema()
        if isinstance(peak, int | float) and 0 < peak < _LEAST_PEAK:
            raise BadInput(
                f"16-bit pixels, and none above {peak:.0f}: it may have a depth of fewer bits, and "
                "it is not known what is white; save it as RGB"
            )
        image = image.point(lambda value: value / 256).convert("L")
    return image.convert("RGB")
