"""The mini world: scenes of 2 to 5 objects whose content is known exactly.

A scene has a setting (beach, kitchen, park, street) and objects, each with a category, a colour and
one of nine places. Settings have habits: which categories occur, in which row they stand, which
colour they usually have. These habits are what a language model can learn *instead of looking*, and
so what a vision-language model trained here hallucinates. No category occurs twice in a scene.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

IMAGE_SIZE_PIXELS = 96
CELL_SIZE_PIXELS = 32

PLACES = (
    "top left", "top center", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
ROWS = ("top", "middle", "bottom")

COLOURS = {
    "red": (212, 46, 42),
    "orange": (243, 136, 32),
    "yellow": (247, 212, 54),
    "green": (52, 156, 70),
    "blue": (46, 102, 206),
    "purple": (136, 66, 178),
    "white": (250, 250, 250),
}

# Category -> (usual row, usual colour).
CATEGORIES = {
    "ball": ("bottom", "red"),
    "bird": ("top", "blue"),
    "boat": ("middle", "white"),
    "car": ("bottom", "red"),
    "chair": ("bottom", "green"),
    "clock": ("top", "white"),
    "cup": ("middle", "blue"),
    "fish": ("middle", "orange"),
    "flower": ("bottom", "yellow"),
    "hat": ("middle", "purple"),
    "house": ("middle", "orange"),
    "kite": ("top", "red"),
    "lamp": ("top", "yellow"),
    "umbrella": ("bottom", "purple"),
}

# Setting -> category -> weight with which it is drawn; every other category weighs RARE.
SETTINGS = {
    "beach": {"kite": 6, "boat": 6, "umbrella": 6, "bird": 3, "fish": 3, "ball": 3, "hat": 2},
    "kitchen": {"clock": 6, "cup": 6, "chair": 6, "lamp": 3, "fish": 3, "flower": 3, "hat": 2},
    "park": {"bird": 6, "house": 6, "flower": 6, "kite": 3, "hat": 3, "ball": 3, "chair": 2},
    "street": {"lamp": 6, "hat": 6, "car": 6, "clock": 3, "house": 3, "umbrella": 3, "bird": 2},
}
RARE = 0.25

OBJECT_COUNTS = (2, 3, 4, 5)
OBJECT_COUNT_WEIGHTS = (3, 3, 3, 2)
USUAL_ROW_WEIGHT = 3.0  # a place in the usual row is so many times as likely as another
USUAL_COLOUR_WEIGHT = 3.0
SMALL_SHARE = 0.25
BACKDROPS = 6  # variants of each setting's background
SIZES_PIXELS = {False: (24, 29), True: (18, 21)}  # is_small -> smallest and largest side


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, where it stands and how large it is drawn."""

    category: str
    colour: str
    place: str
    x: int
    y: int
    size_pixels: int
    is_small: bool
    is_mirrored: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels of the square the object is drawn in."""
        return self.x, self.y, self.size_pixels, self.size_pixels


@dataclass(frozen=True)
class Scene:
    """One picture before it is drawn: a setting and its objects in reading order."""

    setting: str
    objects: tuple[SceneObject, ...]
    backdrop: int
    grain_seed: int

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories present, in reading order."""
        return tuple(thing.category for thing in self.objects)

    def at(self, place: str) -> SceneObject | None:
        """The object at this place, or None where the place is empty."""
        return next((thing for thing in self.objects if thing.place == place), None)


def row_of(place: str) -> str:
    """Row of a place: top, middle or bottom."""
    return ROWS[PLACES.index(place) // 3]


def cell(place: str) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of a place."""
    row, column = divmod(PLACES.index(place), 3)
    return column * CELL_SIZE_PIXELS, row * CELL_SIZE_PIXELS, CELL_SIZE_PIXELS, CELL_SIZE_PIXELS


def weight(setting: str, category: str) -> float:
    """How strongly a setting favours a category."""
    return float(SETTINGS[setting].get(category, RARE))


def sample(rng: random.Random) -> Scene:
    """Draw one scene from the habits of the world."""
    setting = rng.choice(tuple(SETTINGS))
    count = rng.choices(OBJECT_COUNTS, OBJECT_COUNT_WEIGHTS)[0]
    categories: list[str] = []
    free = list(PLACES)
    objects: list[SceneObject] = []
    for _ in range(count):
        left = [name for name in CATEGORIES if name not in categories]
        category = rng.choices(left, [weight(setting, name) for name in left])[0]
        categories.append(category)
        usual_row, usual_colour = CATEGORIES[category]
        place = rng.choices(
            free, [USUAL_ROW_WEIGHT if row_of(name) == usual_row else 1.0 for name in free]
        )[0]
        free.remove(place)
        colour = rng.choices(
            tuple(COLOURS), [USUAL_COLOUR_WEIGHT if c == usual_colour else 1.0 for c in COLOURS]
        )[0]
        objects.append(_placed(rng, category, colour, place))
    objects.sort(key=lambda thing: PLACES.index(thing.place))
    return Scene(setting, tuple(objects), rng.randrange(BACKDROPS), rng.randrange(2**31))


def _placed(rng: random.Random, category: str, colour: str, place: str) -> SceneObject:
    is_small = rng.random() < SMALL_SHARE
    size = rng.randint(*SIZES_PIXELS[is_small])
    left, top, width, _ = cell(place)
    x = left + rng.randint(1, width - size - 1)
    y = top + rng.randint(1, width - size - 1)
    return SceneObject(category, colour, place, x, y, size, is_small, rng.random() < 0.5)


def is_held_out(scene: Scene) -> bool:
    """Whether a scene's content is kept from the training of the base: a fixed quarter of all."""
    content = [(thing.category, thing.colour, thing.place) for thing in scene.objects]
    return crc32(repr((scene.setting, content)).encode()) % 4 == 0


def scenes(seed: int, *, held_out: bool) -> Iterator[Scene]:
    """Endless scenes of one seed; those held out share no content with the others."""
    rng = random.Random(seed)
    while True:
        scene = sample(rng)
        if is_held_out(scene) == held_out:
            yield scene
