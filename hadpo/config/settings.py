"""A recipe: its sections, which stage reads them, and the parameters that come of it.

A benchmark brings its own settings: its module may have a dataclass `Settings`, whose fields belong
to the section evaluate, and one `Data`, whose fields (paths) belong to the section data. They are
read and checked with the section's own, from recipes and parameters alike.
"""

import dataclasses
import functools
from dataclasses import field
from typing import Annotated, Any, get_args, get_origin

from pydantic.dataclasses import dataclass

from hadpo import plugins
from hadpo.config.sections import (
    CompareConfig,
    DataConfig,
    EvaluateConfig,
    MergeConfig,
    ModelConfig,
    PrepareConfig,
    TrainConfig,
)
from hadpo.config.sections.ranges import STRICT
from hadpo.records import BadInput


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """One reproducible experiment; `name` is the file's path below the recipes folder."""

    name: str
    title: str
    notes: str = ""
    is_mini: bool = False  # the synthetic world: it teaches, it is not a result
    stages: tuple[str, ...] = ("prepare", "train", "merge", "evaluate", "compare")
    model: ModelConfig | None = None
    data: DataConfig = field(default_factory=DataConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)


SECTIONS: dict[str, tuple[str, ...]] = {  # stage -> sections it reads
    "prepare": ("model", "data", "prepare"),
    "train": ("model", "train"),
    "merge": ("model", "merge"),
    "evaluate": ("model", "evaluate"),
    "compare": ("compare",),
}
_OWN_TYPES: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "merge": MergeConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
}
_BENCHMARKS = "hadpo.benchmarks"
_ADDED_BY = {"evaluate": "Settings", "data": "Data"}  # section -> class of a benchmark's module


def section_types() -> dict[str, type]:
    """The dataclass of each section, with the settings that the benchmarks add to it.

    Raises:
        BadInput: two of them declare a setting of the same name.
    """
    return _section_types(tuple(plugins.available(_BENCHMARKS)))


def recipe_type() -> type[Recipe]:
    """`Recipe` with the sections of `section_types`."""
    return _recipe_type(tuple(plugins.available(_BENCHMARKS)))


@functools.cache
def _section_types(benchmarks: tuple[str, ...]) -> dict[str, type]:
    found = dict(_OWN_TYPES)
    owners = {f.name: name for name, kind in found.items() for f in dataclasses.fields(kind)}
    for section, added in _ADDED_BY.items():
        bases = [found[section]]
        for name in benchmarks:
            kind = getattr(plugins.load(_BENCHMARKS, name), added, None)
            for f in dataclasses.fields(kind) if kind else ():
                if owners.setdefault(f.name, f"{_BENCHMARKS}.{name}") != f"{_BENCHMARKS}.{name}":
                    raise BadInput(
                        f"benchmark {name}: its setting {f.name!r} is declared by {owners[f.name]} "
                        f"already; begin it with {name}_"
                    )
            bases += [kind] if kind else []
        # A dataclass takes its fields from the last base first.
        whole = type(found[section].__name__, tuple(reversed(bases)), {})
        found[section] = dataclass(frozen=True, kw_only=True, config=STRICT)(whole)
    return found


@functools.cache
def _recipe_type(benchmarks: tuple[str, ...]) -> type[Recipe]:
    kinds = {section: _section_types(benchmarks)[section] for section in _ADDED_BY}
    body: dict[str, Any] = {section: field(default_factory=kind) for section, kind in kinds.items()}
    whole = type("Recipe", (Recipe,), {"__annotations__": kinds} | body)
    made: Any = dataclass(frozen=True, kw_only=True, config=STRICT)(whole)
    return made


def names(setting: str) -> list[str]:
    """The names in a comma-separated setting, as they stand."""
    return [name.strip() for name in setting.split(",") if name.strip()]


def parameters(stage: str) -> dict[str, tuple[str, Any]]:
    """Scalar settings of a stage: name -> (section, type); the parameters of its notebook."""
    found = {}
    types = section_types()
    for section in SECTIONS[stage]:
        for f in dataclasses.fields(types[section]):
            if f.type is not dict and not str(f.type).startswith("dict"):
                is_ranged = get_origin(f.type) is Annotated
                found[f.name] = (section, get_args(f.type)[0] if is_ranged else f.type)
    return found
