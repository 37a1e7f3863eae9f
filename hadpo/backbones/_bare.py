"""Files of bare tensors, whose sizes no config states: the published ones, or those of a JSON file.

Depth and number of heads of EVA and the Q-Former cannot be read off their files (eva_vit_g.pth has
one block more than anybody uses), so smaller models bring a file of sizes: `eva_vit_g.json` beside
`eva_vit_g.pth`.
"""

import dataclasses
from pathlib import Path
from typing import TypeVar

from hadpo import plugins
from hadpo.backbones import _checkpoint
from hadpo.records import BadInput

Sizes = TypeVar("Sizes")
_SUFFIXES = (".pth", ".safetensors", ".bin")


def find(place: Path, *, what: str) -> Path:
    """The file of weights: `place` itself, or the only one in that folder.

    Raises:
        BadInput: a folder with no file of weights, or with several.
    """
    if place.is_file():
        return place
    found = sorted(path for path in place.iterdir() if path.suffix in _SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BadInput(f"{what}: {place} has {len(found)} files of weights ({names}); name one")
    return found[0]


def sizes(path: Path, kind: type[Sizes]) -> Sizes:
    """Sizes of the weights `path`; a JSON file of the same name may change the published ones.

    Args:
        path: a file of weights.
        kind: a dataclass of whole numbers whose defaults are the published sizes.

    Raises:
        BadInput: the JSON file has another key, or a value that is no positive whole number.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return kind()
    values = _checkpoint.read_json(beside)
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise BadInput(f"{beside}: unknown size {key!r}; {plugins.choices(key, known)}")
        if type(value) is not int or value < 1:
            raise BadInput(f"{beside}: {key}: found {value!r}, expected a whole number above 0")
    return kind(**values)
