"""A recipe: its sections, which stage reads them, and the parameters that come of it."""

import dataclasses
from dataclasses import field
from typing import Annotated, Any, get_args, get_origin

from pydantic.dataclasses import dataclass

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
SECTION_TYPES = {
    "model": ModelConfig,
    "data": DataConfig,
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "merge": MergeConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
}


def names(setting: str) -> list[str]:
    """The names in a comma-separated setting, as they stand."""
    return [name.strip() for name in setting.split(",") if name.strip()]


def parameters(stage: str) -> dict[str, tuple[str, Any]]:
    """Scalar settings of a stage: name -> (section, type); the parameters of its notebook."""
    found = {}
    for section in SECTIONS[stage]:
        for f in dataclasses.fields(SECTION_TYPES[section]):
            if f.type is not dict and not str(f.type).startswith("dict"):
                is_ranged = get_origin(f.type) is Annotated
                found[f.name] = (section, get_args(f.type)[0] if is_ranged else f.type)
    return found
