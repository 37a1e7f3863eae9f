"""Draw a scene: outlined sprites on quiet pastel backdrops, drawn at four times the size first.

Sprites and backdrops are cached, so a picture costs well under a millisecond after the first few.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from hadpo.mini.world import COLOURS, IMAGE_SIZE_PIXELS, Scene

OVERSAMPLING = 4
INK = (38, 38, 46)
GRAIN = 3  # largest change of a pixel value by the film grain
Colour = tuple[int, ...]
SPRITES: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("sprites.yaml").read_text(encoding="utf-8")
)


def _stroke(
    pen: ImageDraw.ImageDraw,
    side: int,
    colours: Mapping[str, Colour],
    *,
    tool: str,
    at: Sequence[float],
    fill: str | Sequence[int],
    is_outlined: bool = True,
    widths: float = 1.0,
    angles: Sequence[int] = (0, 360),
) -> None:
    """One stroke of `sprites.yaml` on a square of `side` pixels, outlined in ink."""
    where = [value * (side - 1) for value in at]
    colour = colours[fill] if isinstance(fill, str) else tuple(fill)
    width = max(2, side // 26)
    ink, edge = (INK, width) if is_outlined else (None, 0)
    start, end = angles
    if tool == "oval":
        pen.ellipse(where, colour, ink, edge)
    elif tool == "slice":
        pen.pieslice(where, start, end, colour, ink, edge)
    elif tool == "arc":  # thick, its outline drawn first
        pen.arc(where, start, end, INK, width * 4)
        inner = [value + inset for value, inset in zip(at, (0.03, 0.03, -0.03, -0.03), strict=True)]
        pen.arc([value * (side - 1) for value in inner], start, end, colour, width * 2)
    elif tool == "polygon":
        pen.polygon(where, colour)
        if is_outlined:
            pen.line([*where, *where[:2]], INK, width, joint="curve")
    else:
        pen.line(where, colour, round(width * widths), joint="curve")


@lru_cache(maxsize=4096)
def sprite(category: str, colour: str, size_pixels: int, is_mirrored: bool) -> Image.Image:
    """One object on a transparent square."""
    side = size_pixels * OVERSAMPLING
    main = COLOURS[colour]
    colours: dict[str, Colour] = {
        "main": main,
        "shade": tuple(int(value * 0.68) for value in main),
        "light": tuple(int(value + (255 - value) * 0.55) for value in main),
        "ink": INK,
    }
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    for stroke in SPRITES[category]:
        _stroke(ImageDraw.Draw(image), side, colours, **stroke)
    image = image.resize((size_pixels, size_pixels), Image.Resampling.BOX)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else image


# Setting -> bands from the top: (where the band begins, colour).
BANDS = {
    "beach": ((0.0, (206, 232, 246)), (0.36, (150, 202, 222)), (0.66, (240, 224, 182))),
    "kitchen": ((0.0, (244, 234, 214)), (0.34, (226, 236, 232)), (0.68, (206, 180, 152))),
    "park": ((0.0, (216, 236, 246)), (0.35, (184, 216, 168)), (0.66, (160, 202, 142))),
    "street": ((0.0, (226, 222, 228)), (0.36, (204, 196, 198)), (0.68, (158, 158, 166))),
}


@lru_cache(maxsize=64)
def backdrop(setting: str, variant: int) -> np.ndarray:
    """Background of a setting as float pixels; variants move the bands and details a little."""
    rng = np.random.default_rng(variant)
    side = IMAGE_SIZE_PIXELS * OVERSAMPLING
    image = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(image)
    bands = [(start + rng.uniform(-0.04, 0.04) * (start > 0), c) for start, c in BANDS[setting]]
    for start, colour in bands:
        pen.rectangle((0, start * side, side, side), fill=colour)
    _details(pen, setting, side, [start for start, _ in bands], rng)
    small = image.resize((IMAGE_SIZE_PIXELS, IMAGE_SIZE_PIXELS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def _details(pen: ImageDraw.ImageDraw, setting: str, side: int, starts, rng) -> None:
    middle, bottom = starts[1] * side, starts[2] * side
    phase = rng.uniform(0, 0.2) * side
    if setting == "beach":
        for offset in (0.3, 0.62):
            y = middle + (bottom - middle) * offset
            for x in np.arange(-phase, side, side / 6):
                pen.arc((x, y, x + side / 9, y + side / 28), 180, 360, (178, 218, 232), 5)
    elif setting == "kitchen":
        for x in np.arange(phase, side, side / 6):
            pen.line((x, middle, x, bottom), (212, 224, 220), 4)
        pen.line((0, (middle + bottom) / 2, side, (middle + bottom) / 2), (212, 224, 220), 4)
        pen.rectangle((0, bottom, side, bottom + side / 40), fill=(184, 156, 128))
    elif setting == "park":
        for x in (phase, phase + 0.5 * side):
            pen.ellipse((x, middle - side / 12, x + side / 2, middle + side / 8), (184, 216, 168))
        for x, y in rng.uniform((0, bottom), (side, side), (14, 2)):
            pen.line((x, y, x + 5, y - 14), (140, 186, 122), 4)
    else:
        for index, x in enumerate(np.arange(-phase, side, side / 5)):
            top = middle - side * (0.08 + 0.05 * (index % 3))
            pen.rectangle((x, top, x + side / 6, middle), fill=(208, 202, 210))
        for x in np.arange(-phase, side, side / 4):
            y = (bottom + side) / 2
            pen.rectangle((x, y - 5, x + side / 8, y + 5), fill=(186, 186, 190))


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene; the same scene gives the same pixels."""
    rng = np.random.default_rng(scene.grain_seed)
    pixels = backdrop(scene.setting, scene.backdrop) * rng.uniform(0.96, 1.02)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for thing in scene.objects:
        cut = sprite(thing.category, thing.colour, thing.size_pixels, thing.is_mirrored)
        image.paste(cut, (thing.x, thing.y), cut)
    grain = rng.integers(-GRAIN, GRAIN + 1, (IMAGE_SIZE_PIXELS, IMAGE_SIZE_PIXELS, 1))
    return Image.fromarray(
        (np.asarray(image, dtype=np.int16) + grain).clip(0, 255).astype(np.uint8)
    )
