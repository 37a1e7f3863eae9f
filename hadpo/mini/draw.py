"""Draw a scene: outlined sprites on quiet pastel backdrops, drawn at four times the size first.

Sprites and backdrops are cached, so a picture costs well under a millisecond after the first few.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from hadpo.mini.world import COLOURS, IMAGE_SIZE_PIXELS, Scene

OVERSAMPLING = 4
INK = (38, 38, 46)
GRAIN = 3  # largest change of a pixel value by the film grain
Point = tuple[float, float]


class Pen:
    """Draws on the unit square in one object's main colour, its shade and its light."""

    def __init__(self, side_pixels: int, colour: tuple[int, int, int]) -> None:
        self.side = side_pixels
        self.image = Image.new("RGBA", (side_pixels, side_pixels), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self.main = colour
        self.shade = tuple(int(value * 0.68) for value in colour)
        self.light = tuple(int(value + (255 - value) * 0.55) for value in colour)
        self.outline = max(2, side_pixels // 26)

    def _scaled(self, *values: float) -> list[float]:
        return [value * (self.side - 1) for value in values]

    def oval(self, box: tuple[float, float, float, float], fill, *, outlined: bool = True) -> None:
        """Fill an ellipse inside left, top, right, bottom."""
        self._draw.ellipse(
            self._scaled(*box), fill, INK if outlined else None, self.outline if outlined else 0
        )

    def polygon(self, points: list[Point], fill, *, outlined: bool = True) -> None:
        """Fill a polygon."""
        scaled = [tuple(self._scaled(*point)) for point in points]
        self._draw.polygon(scaled, fill)
        if outlined:
            self._draw.line([*scaled, scaled[0]], INK, self.outline, joint="curve")

    def slice(self, box: tuple[float, float, float, float], start: int, end: int, fill) -> None:
        """Fill a pie slice of an ellipse, angles in degrees clockwise from the right."""
        self._draw.pieslice(self._scaled(*box), start, end, fill, INK, self.outline)

    def arc(self, box: tuple[float, float, float, float], start: int, end: int, fill) -> None:
        """Draw a thick arc."""
        self._draw.arc(self._scaled(*box), start, end, INK, self.outline * 4)
        left, top, right, bottom = box
        inset = 0.03
        inner = (left + inset, top + inset, right - inset, bottom - inset)
        self._draw.arc(self._scaled(*inner), start, end, fill, self.outline * 2)

    def line(self, points: list[Point], fill=INK, *, widths: float = 1.0) -> None:
        """Draw a line so many outlines wide."""
        scaled = [tuple(self._scaled(*point)) for point in points]
        self._draw.line(scaled, fill, round(self.outline * widths), joint="curve")


def _ball(pen: Pen) -> None:
    pen.oval((0.06, 0.06, 0.94, 0.94), pen.main)
    pen.polygon([(0.12, 0.34), (0.88, 0.34), (0.94, 0.5), (0.88, 0.66), (0.12, 0.66),
                 (0.06, 0.5)], pen.light)  # fmt: skip
    pen.oval((0.4, 0.4, 0.6, 0.6), pen.shade)


def _bird(pen: Pen) -> None:
    pen.polygon([(0.02, 0.36), (0.3, 0.46), (0.22, 0.66)], pen.shade)
    pen.oval((0.16, 0.36, 0.76, 0.8), pen.main)
    pen.oval((0.56, 0.18, 0.86, 0.48), pen.main)
    pen.polygon([(0.84, 0.26), (0.99, 0.34), (0.84, 0.41)], (240, 160, 40))
    pen.polygon([(0.28, 0.5), (0.62, 0.48), (0.42, 0.72)], pen.light)
    pen.oval((0.69, 0.26, 0.77, 0.34), INK, outlined=False)
    pen.line([(0.42, 0.8), (0.42, 0.96)])
    pen.line([(0.54, 0.8), (0.54, 0.96)])


def _boat(pen: Pen) -> None:
    pen.line([(0.47, 0.04), (0.47, 0.66)], (110, 74, 44), widths=2)
    pen.polygon([(0.52, 0.08), (0.9, 0.56), (0.52, 0.56)], pen.main)
    pen.polygon([(0.41, 0.18), (0.41, 0.56), (0.14, 0.56)], pen.light)
    pen.polygon([(0.04, 0.64), (0.96, 0.64), (0.8, 0.94), (0.2, 0.94)], pen.main)
    pen.line([(0.12, 0.76), (0.88, 0.76)], pen.shade, widths=2)


def _car(pen: Pen) -> None:
    pen.polygon([(0.22, 0.46), (0.34, 0.2), (0.7, 0.2), (0.84, 0.46)], pen.main)
    pen.polygon([(0.3, 0.45), (0.38, 0.27), (0.5, 0.27), (0.5, 0.45)], (200, 226, 240))
    pen.polygon([(0.55, 0.45), (0.55, 0.27), (0.67, 0.27), (0.76, 0.45)], (200, 226, 240))
    pen.polygon([(0.03, 0.46), (0.97, 0.46), (0.97, 0.74), (0.03, 0.74)], pen.main)
    for left in (0.14, 0.62):
        pen.oval((left, 0.6, left + 0.26, 0.86), INK)
        pen.oval((left + 0.08, 0.68, left + 0.18, 0.78), (190, 190, 196), outlined=False)


def _chair(pen: Pen) -> None:
    pen.polygon([(0.18, 0.04), (0.34, 0.04), (0.34, 0.56), (0.18, 0.56)], pen.main)
    pen.polygon([(0.18, 0.5), (0.86, 0.5), (0.86, 0.66), (0.18, 0.66)], pen.main)
    for left in (0.18, 0.72):
        pen.polygon(
            [(left, 0.66), (left + 0.14, 0.66), (left + 0.14, 0.97), (left, 0.97)], pen.shade
        )


def _clock(pen: Pen) -> None:
    pen.polygon([(0.2, 0.84), (0.34, 0.76), (0.36, 0.97), (0.14, 0.97)], pen.shade)
    pen.polygon([(0.8, 0.84), (0.66, 0.76), (0.64, 0.97), (0.86, 0.97)], pen.shade)
    pen.oval((0.06, 0.03, 0.94, 0.91), pen.main)
    pen.oval((0.2, 0.17, 0.8, 0.77), (246, 244, 234))
    pen.line([(0.5, 0.25), (0.5, 0.48), (0.68, 0.56)], widths=2)


def _cup(pen: Pen) -> None:
    pen.arc((0.56, 0.34, 0.98, 0.74), 270, 90, pen.main)
    pen.polygon([(0.08, 0.24), (0.74, 0.24), (0.66, 0.92), (0.18, 0.92)], pen.main)
    pen.oval((0.08, 0.14, 0.74, 0.34), pen.light)
    pen.oval((0.16, 0.19, 0.66, 0.32), (104, 66, 40), outlined=False)


def _fish(pen: Pen) -> None:
    pen.polygon([(0.66, 0.5), (0.98, 0.2), (0.98, 0.8)], pen.shade)
    pen.polygon([(0.34, 0.3), (0.56, 0.08), (0.6, 0.34)], pen.shade)
    pen.oval((0.02, 0.22, 0.76, 0.78), pen.main)
    pen.line([(0.34, 0.3), (0.4, 0.5), (0.34, 0.7)], pen.shade, widths=2)
    pen.oval((0.13, 0.38, 0.25, 0.5), (255, 255, 255), outlined=False)
    pen.oval((0.16, 0.41, 0.23, 0.48), INK, outlined=False)


def _flower(pen: Pen) -> None:
    pen.line([(0.5, 0.5), (0.5, 0.97)], (44, 120, 52), widths=3)
    pen.polygon([(0.5, 0.84), (0.78, 0.68), (0.74, 0.88)], (70, 150, 70))
    for x, y in ((0.5, 0.18), (0.72, 0.34), (0.64, 0.58), (0.36, 0.58), (0.28, 0.34)):
        pen.oval((x - 0.17, y - 0.17, x + 0.17, y + 0.17), pen.main)
    pen.oval((0.37, 0.26, 0.63, 0.52), (120, 80, 40))


def _hat(pen: Pen) -> None:
    pen.oval((0.02, 0.58, 0.98, 0.9), pen.main)
    pen.polygon([(0.24, 0.72), (0.29, 0.18), (0.71, 0.18), (0.76, 0.72)], pen.main)
    pen.polygon([(0.25, 0.58), (0.75, 0.58), (0.76, 0.72), (0.24, 0.72)], pen.shade)
    pen.oval((0.29, 0.1, 0.71, 0.27), pen.light)


def _house(pen: Pen) -> None:
    pen.polygon([(0.14, 0.44), (0.86, 0.44), (0.86, 0.96), (0.14, 0.96)], pen.main)
    pen.polygon([(0.5, 0.04), (0.98, 0.46), (0.02, 0.46)], (122, 82, 64))
    pen.polygon([(0.22, 0.62), (0.4, 0.62), (0.4, 0.96), (0.22, 0.96)], (92, 60, 44))
    pen.polygon([(0.54, 0.58), (0.76, 0.58), (0.76, 0.78), (0.54, 0.78)], (200, 226, 240))


def _kite(pen: Pen) -> None:
    pen.line([(0.5, 0.68), (0.6, 0.8), (0.46, 0.88), (0.56, 0.98)], widths=1.5)
    pen.polygon([(0.5, 0.02), (0.86, 0.3), (0.5, 0.72), (0.14, 0.3)], pen.main)
    pen.polygon([(0.5, 0.02), (0.86, 0.3), (0.5, 0.3)], pen.light)
    pen.polygon([(0.5, 0.3), (0.5, 0.72), (0.14, 0.3)], pen.shade)


def _lamp(pen: Pen) -> None:
    pen.line([(0.5, 0.46), (0.5, 0.9)], (96, 96, 104), widths=3)
    pen.oval((0.26, 0.84, 0.74, 0.98), (96, 96, 104))
    pen.polygon([(0.34, 0.04), (0.66, 0.04), (0.9, 0.52), (0.1, 0.52)], pen.main)
    pen.polygon([(0.42, 0.06), (0.54, 0.06), (0.6, 0.5), (0.34, 0.5)], pen.light, outlined=False)


def _umbrella(pen: Pen) -> None:
    pen.line([(0.5, 0.46), (0.5, 0.9), (0.56, 0.96), (0.64, 0.92)], (96, 66, 44), widths=2)
    pen.slice((0.03, 0.08, 0.97, 1.0), 180, 360, pen.main)
    pen.slice((0.32, 0.08, 0.68, 1.0), 180, 360, pen.light)
    pen.line([(0.5, 0.02), (0.5, 0.1)])


SPRITES: dict[str, Callable[[Pen], None]] = {
    "ball": _ball, "bird": _bird, "boat": _boat, "car": _car, "chair": _chair, "clock": _clock,
    "cup": _cup, "fish": _fish, "flower": _flower, "hat": _hat, "house": _house, "kite": _kite,
    "lamp": _lamp, "umbrella": _umbrella,
}  # fmt: skip


@lru_cache(maxsize=4096)
def sprite(category: str, colour: str, size_pixels: int, is_mirrored: bool) -> Image.Image:
    """One object on a transparent square."""
    pen = Pen(size_pixels * OVERSAMPLING, COLOURS[colour])
    SPRITES[category](pen)
    image = pen.image.resize((size_pixels, size_pixels), Image.Resampling.BOX)
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
