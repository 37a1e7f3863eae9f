"""Settings: one strict dataclass a section, recipes in YAML that fill them, and where things lie.

A recipe has a few top-level facts and one section per dataclass. A stage reads the sections that
`SECTIONS` lists for it; their scalar fields are also the parameters of the stage's notebook.
`extends:` names the recipe whose settings hold wherever this one is silent.
"""

from hadpo.config.paths import PACKAGE, RECIPES, ROOT, resolve_path, runs_folder
from hadpo.config.recipe import as_dict, load_recipe, recipe_names
from hadpo.config.sections import (
    COMPUTED_ALIKE,
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
    Switch,
    TrainConfig,
    matters_with,
    names,
    parameters,
    section_types,
)

__all__ = [
    "COMPUTED_ALIKE",
    "PACKAGE",
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
    "Share",
    "ShareBelowOne",
    "Switch",
    "TrainConfig",
    "as_dict",
    "load_recipe",
    "matters_with",
    "names",
    "parameters",
    "recipe_names",
    "resolve_path",
    "runs_folder",
    "section_types",
]
