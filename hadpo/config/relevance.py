"""Parameters that cannot matter: a given one that the resolved recipe does not read is refused."""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hadpo.config.settings import Recipe
from hadpo.records import BadInput


@dataclass(frozen=True)
class _Switch:
    """What must hold for some settings to be read at all."""

    section: str
    name: str
    holds: Callable[[Any, Any], bool]
    value: Any
    says: str  # how to make it hold


_MINED = _Switch("prepare", "pair_source", operator.eq, "mined", "pair_source=mined")
_PUBLISHED = _Switch("prepare", "pair_source", operator.eq, "published", "pair_source=published")
_WORLD = _Switch("data", "mini_seed", operator.gt, 0, "mini_seed above 0")
_READING_JUDGE = _Switch("evaluate", "judge", operator.ne, "oracle", "judge=llm")
_NAMED_RUNS = _Switch("compare", "run_names", operator.ne, "", "run_names")
_PUBLISHED_ADAPTER = _Switch("merge", "adapter_folder", operator.ne, "", "adapter_folder")
_BY_EPOCHS = _Switch("train", "steps", operator.eq, 0, "steps=0")

MATTERS_WITH = {  # setting -> what must hold for it to be read
    "description_images": _MINED,
    "yes_no_pairs": _MINED,
    "sampled_share": _MINED,
    "temperature": _MINED,
    "max_new_tokens": _MINED,
    "pairs_schema": _PUBLISHED,
    "pairs_folder": _PUBLISHED,
    "mini_train_images": _WORLD,
    "mini_test_images": _WORLD,
    "epochs": _BY_EPOCHS,
    "height_bug_compat": _READING_JUDGE,
    "on_difference": _NAMED_RUNS,
    "adapter_projector": _PUBLISHED_ADAPTER,
}


def refuse_without_effect(recipe: Recipe, given: Iterable[str], *, where: str) -> None:
    """Refuse given parameters that nothing would read; what a recipe itself says may lie unused.

    Raises:
        BadInput: one line a parameter, with the switch that makes it matter.
    """
    problems = []
    for name in given:
        switch = MATTERS_WITH.get(name)
        if switch is None:
            continue
        value = getattr(getattr(recipe, switch.section), switch.name)
        if not switch.holds(value, switch.value):
            problems.append(
                f"{where}: parameter {name!r} has no effect while {switch.name} is {value!r}; "
                f"leave it out, or set {switch.says} too"
            )
    if problems:
        raise BadInput("\n".join(problems))
