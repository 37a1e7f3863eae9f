"""What is here, what is missing, what will fit, and the command that fixes it; loads nothing."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hadpo import config
from hadpo.doctor import files, machine
from hadpo.doctor.files import Check, Report, sources_of
from hadpo.doctor.machine import missing_kernels
from hadpo.records import BadInput
from hadpo.runs import Run


def check(recipe_name: str = "") -> Report:
    """Checks of this machine and, for a recipe, of its files, numbers and memory.

    A machine that cannot import transformers is described alone.

    Raises:
        BadInput: no such recipe, or its backbone is unknown.
    """
    checks = list(machine.checks())
    can_import = all(c.status == "ok" for c in checks if c.what == "torchvision")
    if recipe_name and can_import:
        recipe = config.load_recipe(recipe_name)
        checks += files.checks(recipe, run_folder=None)
        # A command that runs the recipe can name it, so here it is nothing that lacks.
        checks += [dataclasses.replace(c, status="warning") for c in files.asked_checks(recipe)]
        checks += machine.memory_checks(recipe, machine.capability())
        checks += machine.merge_check(recipe)
    return Report(checks)


def plan(recipe: config.Recipe, stages: Sequence[str], runs_folder: Path) -> Report:
    """What `stages` of a recipe find here, and the time, disk and memory they will take.

    Reads no weights, and of a mini recipe, whose files come with the package, loads no backbone.
    """
    asked = dataclasses.replace(recipe, stages=tuple(stages))
    checks = list(files.checks(asked, run_folder=None)) if stages else []
    checks = [c for c in checks if c.status not in ("ok", "present")]
    checks += files.asked_checks(asked)
    if recipe.model is not None and "train" in stages and not recipe.is_mini:
        checks += machine.memory_checks(asked, machine.capability())
    if not recipe.is_mini:
        checks += machine.merge_check(asked)
    checks.append(machine.disk_check(asked, runs_folder))
    return Report([*checks, machine.time_check(asked, runs_folder)])


def inputs(run: Run) -> Report:
    """The files that a run needs; a mini recipe's world is drawn here, into the run's own folder.

    Raises:
        BadInput: something is missing or broken; all of it is listed at once, with what to do.
    """
    data = run.recipe.data
    if data.mini_seed > 0:
        from hadpo import mini

        mini.build(
            run.folder / "world",
            seed=data.mini_seed,
            train_images=data.mini_train_images,
            test_images=data.mini_test_images,
        )
    report = Report(list(files.checks(run.recipe, run_folder=run.folder)))
    if not report.is_healthy:
        lines = [f"  {c.what}: {c.status}, {c.found}; {c.fix}" for c in report.lacking]
        raise BadInput(f"recipe {run.recipe.name} lacks files:\n" + "\n".join(lines))
    return report
