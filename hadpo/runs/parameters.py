"""Parameters of a notebook: which names are meant, and every one of them known and of its type."""

import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hadpo import config
from hadpo.plugins import choices
from hadpo.records import BadInput

RUN_PARAMETERS = ("recipe", "run", "from_run")  # what every notebook takes beside its settings
_NOTEBOOK_OWN = {
    "In",
    "Out",
    "exit",
    "quit",
    "open",
    "get_ipython",
}  # IPython's names, not the user's
_first_names: dict[str, set[str]] = {}  # stage -> user's names at the first start in this process


def run_name(recipe: str) -> str:
    """The default name of a run: the recipe's path with `-` for `/`."""
    if recipe.endswith((".yaml", ".yml")):
        return Path(recipe).stem
    return recipe.replace("/", "-")


def check_names(known: Collection[str], namespace: Mapping[str, Any]) -> None:
    """Check a notebook that is no stage: it takes the parameters `known` and no others.

    Raises:
        BadInput: an unknown or misspelt parameter.
    """
    _given("this notebook", set(known), namespace)


def check(
    stage: str, recipe_name: str, name: str, overrides: Mapping[str, Any]
) -> tuple[config.Recipe, dict[str, Any]]:
    """The recipe with its overrides laid over it, and those that were given; raises BadInput."""
    if stage not in config.SECTIONS:
        raise BadInput(f"no stage {stage!r}; {choices(stage, config.SECTIONS)}")
    if not name or any(c in name for c in "/\\ ") or name.startswith("."):
        raise BadInput(f"run name {name!r}: expected one without spaces, slashes or a leading dot")
    given = {key: value for key, value in overrides.items() if value is not None}
    recipe = config.load_recipe(recipe_name, given, stage=stage)
    if stage not in recipe.stages:
        raise BadInput(f"recipe {recipe_name} has no stage {stage}; it has {list(recipe.stages)}")
    return recipe, given


def from_notebook(stage: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters among a notebook's names, every one known.

    Plain papermill only warns about a parameter that a notebook does not have; here it is an error.

    Raises:
        BadInput: an unknown or misspelt name, or a YAML slip that made a value an annotation.
    """
    return _given(f"stage {stage}", {*RUN_PARAMETERS, *config.parameters(stage)}, namespace)


def _given(place: str, known: set[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        name
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in _NOTEBOOK_OWN
        and not isinstance(value, types.ModuleType | types.FunctionType | type)
    }
    # Cells further down make names of their own: what counts is what stood at the first start.
    names &= _first_names.setdefault(place, names) | known
    for name in sorted(names - known):
        raise BadInput(f"unknown parameter {name!r} for {place}; {choices(name, known)}")
    for name, annotation in namespace.get("__annotations__", {}).items():
        if not isinstance(annotation, type):  # `-y "{lr:1e-6}"` arrives as `lr: 1e-06 = None`
            raise BadInput(
                f"parameter {name!r}: found {name}:{annotation}, expected '{name}: value'"
            )
    return {name: namespace[name] for name in names & known}
