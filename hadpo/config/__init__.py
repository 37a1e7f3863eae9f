"""Settings: one strict dataclass a section, recipes in YAML that fill them, and where things lie.

A recipe has a few top-level facts and one section per dataclass. A stage reads the sections that
`SECTIONS` lists for it; their scalar fields are `settings(stage)`, the stage's parameters.
`extends:` names the recipe whose settings hold wherever this one is silent.
"""

from hadpo.config.paths import PACKAGE, RECIPES, ROOT, resolve_path, runs_folder
from hadpo.config.recipe import (
    Setting,
    as_dict,
    load_recipe,
    recipe_names,
    section_types,
    settings,
)
from hadpo.config.sections import (
    COMPUTED_ALIKE,
    MAIN,
    READING_JUDGE,
    SECTIONS,
    STRICT,
    Amount,
    AtLeastOne,
    CompareConfig,
    Count,
    DataConfig,
    EvaluateConfig,
    MergeConfig,
    ModelConfig,
    Positive,
    PrepareConfig,
    Recipe,
    Share,
    ShareBelowOne,
    TrainConfig,
    When,
    amounts,
    names,
)

__all__ = [
    "COMPUTED_ALIKE",
    "MAIN",
    "PACKAGE",
    "READING_JUDGE",
    "RECIPES",
    "ROOT",
    "SECTIONS",
    "STRICT",
    "Amount",
    "AtLeastOne",
    "CompareConfig",
    "Count",
    "DataConfig",
    "EvaluateConfig",
    "MergeConfig",
    "ModelConfig",
    "Positive",
    "PrepareConfig",
    "Recipe",
    "Setting",
    "Share",
    "ShareBelowOne",
    "TrainConfig",
    "When",
    "amounts",
    "as_dict",
    "load_recipe",
    "names",
    "recipe_names",
    "resolve_path",
    "runs_folder",
    "section_types",
    "settings",
]
