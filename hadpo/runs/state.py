"""What `runs/` holds of a stage: look at it, say what is in the way, and delete it."""

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hadpo import config
from hadpo.plugins import choices
from hadpo.records import BadInput
from hadpo.runs.lock import is_alive, working
from hadpo.runs.manifest import Manifest, read_manifest

_LONGEST_NAME = 100  # bytes


def run_name(recipe: str) -> str:
    """The default name of a run: the recipe's path with `-` for `/`."""
    if recipe.endswith((".yaml", ".yml")):
        return Path(recipe).stem
    return recipe.replace("/", "-")


def check_name(name: str) -> None:
    """Raise BadInput unless a run may be called so: it names a folder, and stands in commands."""
    odd = any(c in "/\\" or c.isspace() or not c.isprintable() for c in name)
    if odd or name[:1] in ("", ".", "-") or len(name.encode()) > _LONGEST_NAME:
        raise BadInput(
            f"run name {name[:_LONGEST_NAME]!r}: expected one without spaces, slashes or a leading "
            f"dot, of at most {_LONGEST_NAME} bytes"
        )


def check(
    stage: str, recipe_name: str, name: str, overrides: Mapping[str, Any]
) -> tuple[config.Recipe, dict[str, Any]]:
    """The recipe with its overrides laid over it, and those that were given; raises BadInput."""
    if stage not in config.SECTIONS:
        raise BadInput(f"no stage {stage!r}; {choices(stage, config.SECTIONS)}")
    check_name(name)
    given = {key: value for key, value in overrides.items() if value is not None}
    recipe = config.load_recipe(recipe_name, given, stage=stage)
    if stage not in recipe.stages:
        raise BadInput(f"recipe {recipe_name} has no stage {stage}; it has {list(recipe.stages)}")
    return recipe, given


def look(stage: str, recipe: config.Recipe, name: str, *, earlier: str = "") -> Manifest | None:
    """The manifest of `runs/<name>/<stage>`, None if there is none; nothing is written.

    What was interrupted may go on with other settings if they only say how it is computed.

    Raises:
        BadInput: the folder holds this stage with other settings, or another process works on it.
    """
    folder = config.runs_folder() / name / stage
    old = read_manifest(folder)
    if old is not None:
        _refuse_other(old, settings_of(recipe, stage), recipe.name, earlier, folder)
        refuse_running(old, folder)
    return old


def stage_folder(root: Path, name: str, stage: str, earlier: str) -> Path:
    """The folder of `stage` that run `name` reads: its own, else that of the run `earlier`.

    `earlier` is what its manifest names as `from_run`, or "". A run that trains again on another
    run's pairs reads its own training, although its manifest names the other run.
    """
    own = root / name / stage
    return own if not earlier or read_manifest(own) is not None else root / earlier / stage


def finished(folder: Path, *, wanted_by: str, recipe: str) -> Manifest:
    """The manifest of the finished stage in `folder`; BadInput if it is not done."""
    manifest, name, stage = read_manifest(folder), folder.parent.name, folder.name
    if manifest is None or manifest.status != "done":
        state = f"is {manifest.status}" if manifest else "has not been run"
        raise BadInput(
            f"stage {wanted_by} needs stage {stage} of run {name!r}, which {state}; "
            f"run it first: hadpo stage {stage} {recipe} --name {name}"
        )
    return manifest


def merged_model(folder: Path) -> tuple[config.Recipe, dict[str, Any]]:
    """The recipe of a run, and the files of its merged model.

    Raises:
        BadInput: the folder is no run with a finished merge.
    """
    manifest = read_manifest(folder / "merge")
    if manifest is None or manifest.status != "done" or "merged" not in manifest.facts:
        raise BadInput(
            f"{folder} is no run with a finished merge: run {folder.name!r} has no finished merge; "
            f"run it first (hadpo run RECIPE --name {folder.name}), or name another"
        )
    return config.load_recipe(manifest.recipe), manifest.facts["merged"]["files"]


def settings_of(recipe: config.Recipe, stage: str) -> dict[str, Any]:
    """All sections that a stage reads, as its manifest keeps them."""
    return {section: config.as_dict(recipe)[section] for section in config.SECTIONS[stage]}


def discard(name: str, stage: str) -> None:
    """Delete a stage's folder, so that it is done anew.

    Raises:
        BadInput: a process works on it.
    """
    folder = config.runs_folder() / name / stage
    try:
        old = read_manifest(folder)
    except BadInput:  # a manifest that nobody can read is what --force is for
        old = None
    if old is not None:
        refuse_running(old, folder)
    if folder.is_dir():
        shutil.rmtree(folder)


def refuse_stale(manifest: Manifest, *, where_gone: bool = False) -> None:
    """Raise BadInput if a stage was made from an earlier stage that was redone since.

    `where_gone`: also if the earlier stage was deleted, and would be made anew.
    """
    name = manifest.name
    for stage, run_id in manifest.parents.items():
        place = stage_folder(config.runs_folder(), name, stage, manifest.earlier)
        now = read_manifest(place)
        if where_gone if now is None else now.run_id != run_id:
            since = f"another {stage} than the one" if now else f"the {stage} that was deleted"
            command = redo_command(manifest, manifest.stage if now else stage)
            raise BadInput(
                f"stage {manifest.stage} of run {name!r} was made from {since} in {place}; redo it "
                f"and what rests on it: {command} (or all of it with --force), or choose another "
                "--name"
            )


def redo_command(manifest: Manifest, stage: str) -> str:
    """The command that redoes a stage of a run, and those that rest on it."""
    name = manifest.name
    made = [read_manifest(config.runs_folder() / name / each) for each in config.SECTIONS]
    given = {key: value for one in made if one for key, value in one.overrides.items()}
    if manifest.earlier:
        given = manifest.overrides
    settings = "".join(f" -p {shlex.quote(f'{key}={value}')}" for key, value in given.items())
    about = f"{manifest.recipe} --name {name}"
    if manifest.earlier:
        return f"hadpo stage {manifest.stage} {about} --from {manifest.earlier}{settings} --force"
    return f"hadpo run {about}{settings} --redo-from {stage}"


def refuse_running(old: Manifest, folder: Path) -> None:
    """Raise BadInput if another process works on `folder`, here or on another host."""
    if old.status != "running":
        return
    is_other = old.pid != os.getpid() and is_alive(old.pid, old.pid_started)
    if old.is_elsewhere or is_other:
        since = str(old.history[-1].get("time", "")) if old.history else old.started
        raise BadInput(working(folder, old.pid, old.host, since))


def _refuse_other(
    old: Manifest, settings: Mapping[str, Any], recipe: str, earlier: str, folder: Path
) -> None:
    """Raise BadInput if `folder` holds other settings."""
    asked = {"recipe": recipe, "from_run": earlier} | flat(settings)
    found = {"recipe": old.recipe, "from_run": old.earlier} | flat(old.settings)
    free = {f"train.{name}" for name in config.COMPUTED_ALIKE} if old.status != "done" else set()
    names = (asked.keys() | found.keys()) - free
    keys = sorted(k for k in names if asked.get(k) != found.get(k))
    if keys:
        differ = "; ".join(f"{k}: {found.get(k)!r} there, {asked.get(k)!r} asked" for k in keys)
        raise BadInput(
            f"run name {old.name!r} is in use with other parameters ({differ}); "
            f"choose another --name, or redo the stage with --force ({folder})"
        )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined with a dot: {"train": {"beta": 0.1}} is {"train.beta": 0.1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        place = f"{prefix}{key}"
        found |= flat(value, f"{place}.") if isinstance(value, Mapping) else {place: value}
    return found
