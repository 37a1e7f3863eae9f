"""Settings: one strict dataclass a section, recipes in YAML that fill them, and where things lie.

A recipe has a few top-level facts and one section per dataclass. A stage reads the sections that
`SECTIONS` lists for it; their scalar fields are `settings(stage)`, the stage's parameters.
`extends:` names the recipe whose settings hold wherever this one is silent.
"""

from hadpo.config.paths import HUB_ID, PACKAGE, RECIPES, ROOT, resolve_path, runs_folder
from hadpo.config.recipe import (
    as_dict,
    load_recipe,
    recipe_names,
    section_types,
    settings,
)
from hadpo.config.sections import (
    COMPUTED_ALIKE,
    MAIN,
    RANKED_CONTROLS,
    READING_JUDGE,
    SECTIONS,
    SERVED,
    STRICT,
    AtLeastOne,
    Count,
    DataConfig,
    EvaluateConfig,
    MergeConfig,
    ModelConfig,
    PrepareConfig,
    Recipe,
    ShareBelowOne,
    TrainConfig,
    When,
    amounts,
    named,
    names,
)
