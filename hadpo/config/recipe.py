"""Read a recipe: YAML over YAML over defaults, with a run's overrides on top, all of it checked."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from hadpo.config.paths import RECIPES
from hadpo.config.sections import (
    SECTIONS,
    Recipe,
    parameters,
    recipe_type,
    refuse_without_effect,
    section_types,
)
from hadpo.plugins import choices
from hadpo.records import BadInput


def load_recipe(
    name: str, overrides: Mapping[str, Any] | None = None, *, stage: str = ""
) -> Recipe:
    """The recipe `name` (a path below `recipes/`, or a path to a user's own YAML), checked.

    Args:
        name: for example "mini/llava", or "my/recipe.yaml".
        overrides: setting -> value; values of None are left to the recipe.
        stage: accept overrides of this stage only; "" accepts those of any stage.

    Raises:
        BadInput: no such recipe, an unknown, misspelt or mistyped setting or one out of range, or
            an override that cannot matter.
    """
    values = _read(name, seen=())
    known: dict[str, str] = {}
    for each in (stage,) if stage else SECTIONS:
        known |= {setting: section for setting, (section, _) in parameters(each).items()}
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    for key, value in given.items():
        if key not in known:
            place = f"stage {stage}" if stage else "any stage"
            raise BadInput(f"unknown parameter {key!r} for {place}; {choices(key, known)}")
        values.setdefault(known[key], {})[key] = value
    recipe = _check(recipe_type(), {"name": name} | values, where=f"recipe {name}")
    refuse_without_effect(recipe, given, where=f"recipe {name}")
    return recipe


def recipe_names() -> list[str]:
    """Names of the recipes that the package brings.

    Parts that start with _ are bases to extend; `accelerate/` holds settings of accelerate.
    """
    paths = (p.relative_to(RECIPES).with_suffix("") for p in RECIPES.rglob("*.yaml"))
    recipes = (p for p in paths if p.parts[0] != "accelerate")
    return sorted(p.as_posix() for p in recipes if not any(x.startswith("_") for x in p.parts))


def as_dict(recipe: Any) -> dict[str, Any]:
    """Plain nested values, for a manifest."""
    return dataclasses.asdict(recipe)


def _read(name: str, *, seen: tuple[str, ...]) -> dict[str, Any]:
    """Values of a recipe file, laid over those it extends."""
    if name in seen:
        raise BadInput(f"recipe {name} extends itself: {' -> '.join([*seen, name])}")
    path = RECIPES / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    if not path.is_file():
        raise BadInput(f"no recipe {name!r} ({path} is no file); {choices(name, recipe_names())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected settings, found {type(values).__name__}")
    # `train:` with nothing below it sets nothing.
    values = {k: v for k, v in values.items() if v is not None or k not in section_types()}
    parent = values.pop("extends", None)
    if parent is None:
        return values
    return _lay_over(_read(parent, seen=(*seen, name)), values)


def _lay_over(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = (
            isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != "files"
        )
        merged[key] = _lay_over(merged[key], value) if both else value
    return merged


def _check(kind: type, values: Mapping[str, Any], *, where: str) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        raise BadInput("\n".join(_explain(e, where) for e in error.errors())) from error


def _explain(error: Any, where: str) -> str:
    *section, name = [str(part) for part in error["loc"]] or [""]
    place = f"{where}: {'.'.join([*section, name])}"
    if error["type"] == "unexpected_keyword_argument":
        kind = section_types()[section[0]] if section else Recipe
        return (
            f"{place}: unknown setting; {choices(name, [f.name for f in dataclasses.fields(kind)])}"
        )
    return f"{place}: {error['msg']} (found {error['input']!r})"
