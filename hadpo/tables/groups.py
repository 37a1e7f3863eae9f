"""Which runs are repetitions of one another: the same recipe and settings, other seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from hadpo.tables.results import RunResults

SEEDS = ("prepare_seed", "train_seed", "evaluate_seed", "mini_seed")
PLACES = ("files", "visual_genome", "pairs_folder", "coco", "pope", "shr", "vocabulary")
_NO_MATTER = {*SEEDS, *PLACES, "device"}  # two runs that differ in these may still be averaged


def groups(results: Sequence[RunResults]) -> dict[str, list[RunResults]]:
    """Runs that may be averaged, by the group's label: the recipe, and what sets the group apart.

    Runs stand together if they agree in their recipe and in every setting of every stage, seeds,
    device and places of files aside. Where groups of one recipe differ, the label says in what,
    for example "mini/llava, beta 0.2".
    """
    found: dict[tuple[Any, ...], list[RunResults]] = {}
    for result in results:
        shared = {k: repr(v) for k, v in flat(result.settings).items() if k not in _NO_MATTER}
        found.setdefault((result.recipe, *sorted(shared.items())), []).append(result)
    firsts = [members[0] for members in found.values()]
    return {_label(m[0], firsts): m for m in found.values()}


def differing(results: Sequence[RunResults]) -> dict[str, list[Any]]:
    """Setting -> its distinct values over the runs, of the settings that are not equal in all."""
    each = [flat(result.settings) for result in results]
    names = sorted({name for settings in each for name in settings})
    values = {name: [settings.get(name) for settings in each] for name in names}
    return {
        name: [v for at, v in enumerate(found) if v not in found[:at]]
        for name, found in values.items()
        if any(v != found[0] for v in found)
    }


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of all sections by their own names, which no two sections share."""
    found: dict[str, Any] = {}
    for section in settings.values():
        found |= section if isinstance(section, Mapping) else {}
    return found


def _label(result: RunResults, firsts: Sequence[RunResults]) -> str:
    names = differing([other for other in firsts if other.recipe == result.recipe])
    own = flat(result.settings)
    texts = [f"{name} {own.get(name, '-')}" for name in names if name not in _NO_MATTER]
    return ", ".join([result.recipe, *texts])
