"""The command line: `hadpo run`, `stage`, `doctor`, ...; `results` has those that look at runs."""

import inspect
import json
import logging
import os
import shlex
import sys
import textwrap
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from hadpo import __version__, config, runs
from hadpo.cli import answer, fetching, instructions, results, scoring
from hadpo.cli.results import AsJson
from hadpo.plugins import choices
from hadpo.records import BadInput
from hadpo.runs import execute

OK, STAGE_FAILED, BAD_INPUT, BAD_ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit(OK)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Hallucination-aware DPO for vision-language models, from records to figures."""


app.add_typer(results.commands)
app.add_typer(fetching.commands)
app.add_typer(answer.commands)
app.add_typer(instructions.commands, name="instructions")
app.add_typer(scoring.commands)
RecipeName = Annotated[str, typer.Argument(help="a recipe's name, or the path of your own YAML")]
Name = Annotated[str, typer.Option(help="name of the run; default: the recipe's path with - for /")]
Settings = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", help="KEY=VALUE, over the recipe's setting")
]
Force = Annotated[bool, typer.Option(help="delete what the run has of these stages, and redo them")]
Processes = Annotated[
    int, typer.Option(min=0, help="train in so many processes; short for -p processes=N")
]
DryRun = Annotated[bool, typer.Option(help="check everything and print the plan; run nothing")]


def main() -> None:
    """Entry point: every error that a user can fix is one message and a defined exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    _show_whole_lines(app)
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        expected: Any = error
        if runs.is_disk_full(error) and not hasattr(error, "exit_code"):
            place = getattr(error, "filename", None)
            expected = runs.disk_full(Path(place or config.runs_folder()).parent)
        if hasattr(expected, "format_message"):  # click's own errors of usage
            if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked: help is no error
                typer.echo(expected.format_message())
                sys.exit(OK)
            _stop(expected.format_message(), BAD_INPUT)
        if not hasattr(expected, "exit_code"):
            raise
        _stop(expected, expected.exit_code)
    if code == INTERRUPTED:  # Typer turns Ctrl-C into this code
        _stop("interrupted; the same command goes on from there", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else OK)


def _show_whole_lines(group: typer.Typer) -> None:
    """A list of commands shows the first sentence of each, whole: a default one would be cut."""
    for command in group.registered_commands:
        command.short_help = (inspect.getdoc(command.callback) or "").partition("\n\n")[0]
    for info in group.registered_groups:
        if info.typer_instance is not None:
            info.short_help = info.typer_instance.info.help or None
            _show_whole_lines(info.typer_instance)


@app.command()
def run(
    recipe: RecipeName,
    name: Name = "",
    parameter: Settings = None,
    processes: Processes = 0,
    adapter: Annotated[
        str, typer.Option(help="evaluate this adapter, a folder or a hub id; train nothing")
    ] = "",
    redo_from: Annotated[
        str, typer.Option(help="delete this stage of the run and what rests on it, and redo them")
    ] = "",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Run all stages of a recipe; finished ones are left as they are.

    Example: hadpo run mini/llava -p beta=0.2 --name beta-02 --processes 2

    Example: hadpo run llava-1.5-7b --adapter juliozhao/hadpo-llava-1.5
    """
    overrides = _overrides(parameter, processes)
    resolved = config.load_recipe(recipe, overrides)
    stages = resolved.stages
    if adapter:
        stages, published = _without_training(resolved, fetching.find_adapter(adapter), overrides)
        overrides |= published
        name = name or f"{runs.run_name(recipe)}-published"
    redone = _from(redo_from, stages, force=force) if redo_from else ()
    _run_stages(stages, recipe, name, overrides, "", force=force, redone=redone, dry_run=dry_run)


@app.command()
def stage(
    stage: Annotated[str, typer.Argument(help="prepare, train, merge, evaluate or compare")],
    recipe: RecipeName,
    name: Name = "",
    from_run: Annotated[
        str, typer.Option("--from", help="run whose earlier stages are read; default: this one")
    ] = "",
    parameter: Settings = None,
    processes: Processes = 0,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Run one stage of a recipe.

    Example: hadpo stage train mini/llava --name seed-1 --from mini-llava -p train_seed=1
    """
    if stage not in config.SECTIONS:
        raise BadInput(f"no stage {stage!r}; {choices(stage, config.SECTIONS)}")
    overrides = _overrides(parameter, processes)
    _run_stages((stage,), recipe, name, overrides, from_run, force=force, dry_run=dry_run)


@app.command()
def doctor(recipe: Annotated[str, typer.Argument()] = "", as_json: AsJson = False) -> None:
    """Say what this machine has, what a recipe needs, what is missing, and what to do.

    Example: hadpo doctor llava-1.5-7b
    """
    from hadpo import doctor as checks

    report = checks.check(recipe)
    typer.echo(json.dumps(report.rows) if as_json else report.to_text())
    if not report.is_healthy:
        raise typer.Exit(BAD_ENVIRONMENT)


@app.command("judge-agreement")
def judge_agreement(
    labels: Annotated[Path, typer.Argument(help="JSON lines: a case, and a label for each claim")],
    recipe: Annotated[str, typer.Argument(help="recipe that names the judge")] = "mini/llava",
    parameter: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a judge agrees with labels that people gave: accuracy and Cohen's kappa.

    Example: hadpo judge-agreement labels.jsonl -p judge=llm -p judge_model=gpt-4o-2024-08-06
    """
    from hadpo import benchmarks, judges

    settings = config.load_recipe(recipe, _overrides(parameter), stage="evaluate").evaluate
    try:
        found = benchmarks.agreement(labels, settings)
    except judges.Unfinished as error:
        _stop(f"{error}; the same command goes on from there", STAGE_FAILED)
    if as_json:
        typer.echo(json.dumps(vars(found)))
        return
    kappa = "-" if found.kappa is None else f"{found.kappa:.3f}"
    typer.echo(f"judge {settings.judge}, {found.claims} claims, {found.unparsed} unparsed")
    typer.echo(f"accuracy {100 * found.accuracy:.1f} %, kappa {kappa}")
    for label, row in found.confusion.items():
        counts = ", ".join(f"{count} {other}" for other, count in row.items() if count)
        typer.echo(f"{label:14} judged: {counts or '-'}")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _run_stages(
    stages: tuple[str, ...],
    recipe: str,
    name: str,
    overrides: dict[str, Any],
    from_run: str,
    *,
    force: bool,
    redone: tuple[str, ...] = (),
    dry_run: bool,
) -> None:
    name = name or runs.run_name(recipe)
    folder = config.runs_folder() / name
    settings = {each: config.settings(each) for each in stages}
    known = {setting for each in stages for setting in settings[each]}
    for key in overrides.keys() - known:
        place = f"stage{'s' * (len(stages) > 1)} {', '.join(stages)}"
        raise BadInput(f"unknown parameter {key!r} for {place}; {choices(key, known)}")
    given = {e: {k: v for k, v in overrides.items() if k in settings[e]} for e in stages}
    for each in stages:  # all of it is checked before any of it is run
        resolved, _ = execute.check(each, recipe, name, given[each])
        if not force and each not in redone:
            execute.refuse_other_run(each, resolved, name, earlier=from_run)
        if dry_run:
            typer.echo(_plain_papermill(each, recipe, name, from_run, given[each]))
    left = [
        each
        for each in stages
        if force or getattr(runs.read_manifest(folder / each), "status", "") != "done"
    ]
    _preflight(left, recipe, overrides, folder, dry_run=dry_run)
    if dry_run:
        return
    if redone:
        execute.discard_all(redone, name)
    started = time.monotonic()
    made = None
    for each in stages:
        typer.echo(f"{each:9} ... ", nl=False)
        try:
            outcome = execute.execute(
                each, recipe, name, given[each], from_run=from_run, force=force
            )
        except BaseException as error:
            typer.echo("stopped")
            if not isinstance(error, BadInput | runs.BadEnvironment):  # else it may be another's
                _write_page(name)
            if isinstance(error, runs.Stopped):  # Typer would take it for Ctrl-C, and say no more
                _stop(error, INTERRUPTED)
            raise
        if not outcome.was_done or each == stages[-1]:  # a stage done before changes no page
            made = _write_page(name)
        done = "done before" if outcome.was_done else f"{outcome.seconds:.0f} s"
        typer.echo(f"{done:12} {outcome.folder / 'report.html'}")
    if made is not None and made.headline is not None and stages[-1] == "compare":
        caption = made.headline.full_caption
        typer.echo(f"\n{caption}\n\n{made.headline.to_text(hide=['Unreadable'])}")
        notes = (note.partition(": ") for note in made.headline.notes)
        stars = [f"*: {text}" for start, _, text in notes if start.startswith("Bold")]
        for text in [*stars, *(f"! {warning}" for warning in made.warnings)]:
            typer.echo(textwrap.fill(text, 100, subsequent_indent="  "))
    shown = made.path if made is not None else folder / stages[-1] / "report.html"
    typer.echo(f"{time.monotonic() - started:.0f} s; the page: {shown}")
    for each in stages:
        manifest = runs.read_manifest(folder / each)
        for warning in manifest.facts.get("warnings", []) if manifest else []:
            typer.echo(f"{each}: {warning}")


def _preflight(
    stages: list[str], recipe: str, overrides: dict[str, Any], folder: Path, *, dry_run: bool
) -> None:
    """Look, before any notebook, for what the stages that are to be run need.

    Raises:
        BadEnvironment: something is missing or broken; lists all of it.
    """
    from hadpo import doctor

    resolved = config.load_recipe(recipe, overrides)
    report = doctor.plan(resolved, stages, folder.parent) if stages else doctor.Report([])
    cure = f"hadpo fetch --recipe {recipe}" if doctor.sources_of(resolved) else "hadpo doctor"
    message = f"recipe {recipe} lacks {len(report.lacking)} things on this machine"
    if not dry_run and report.lacking:
        raise runs.BadEnvironment(f"{message}:\n{doctor.Report(report.lacking).to_text()}\n{cure}")
    if dry_run:
        typer.echo(
            f"\n{report.to_text()}\n\ndry run: nothing was run; results would lie in {folder}"
        )
        if report.lacking:
            typer.echo(f"{message}; see above, or: {cure}")
            raise typer.Exit(BAD_ENVIRONMENT)


def _write_page(name: str) -> Any:
    """The run's page, made anew; None, with a warning, if it cannot be: the run itself counts."""
    from hadpo import summary

    try:
        return summary.write(name, config.runs_folder())
    except (BadInput, OSError) as error:
        logging.getLogger(__name__).warning("no index.html: %s", error)
        return None


def _from(stage: str, stages: tuple[str, ...], *, force: bool) -> tuple[str, ...]:
    """The stages that `--redo-from` redoes."""
    if stage not in stages:
        raise BadInput(f"--redo-from: no stage {stage!r}; {choices(stage, stages)}")
    if force:
        raise BadInput("--redo-from and --force: name one; --force redoes all stages")
    return stages[stages.index(stage) :]


def _overrides(parameters: list[str] | None, processes: int = 0) -> dict[str, Any]:
    shared = {"processes": processes} if processes else {}
    return runs.read_overrides(parameters or ()) | shared


def _without_training(
    recipe: config.Recipe, adapter: str, given: dict[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The stages and settings that evaluate a recipe's base beside a published adapter.

    Raises:
        BadInput: the recipe cannot merge one, or a parameter asks for something else.
    """
    stages = tuple(each for each in recipe.stages if each != "train")
    if not {"prepare", "merge", "evaluate"} <= set(stages):
        raise BadInput(
            f"--adapter: recipe {recipe.name} has the stages {', '.join(stages)}; "
            "expected prepare, merge and evaluate"
        )
    published: dict[str, Any] = {"adapter_folder": adapter, "pair_source": "questions"}
    both = [each for each in config.names(recipe.evaluate.models) if each in ("base", "merged")]
    if "models" not in given:  # its controls and steps come out of a training
        published["models"] = ",".join(both)
    for key in published.keys() & given.keys():
        raise BadInput(f"--adapter sets {key} itself; leave out -p {key}={given[key]}")
    return stages, published


def _plain_papermill(
    stage: str, recipe: str, name: str, from_run: str, overrides: dict[str, Any]
) -> str:
    """The papermill command that does the same."""
    source = execute.notebook_path(stage).relative_to(config.ROOT)
    target = config.runs_folder() / name / stage / "notebook.ipynb"
    values = {"recipe": recipe, "run": name} | ({"from_run": from_run} if from_run else {})
    settings = " ".join(f"-p {k} {shlex.quote(str(v))}" for k, v in (values | overrides).items())
    return f"papermill {source} {os.path.relpath(target)} {settings}"


def _stop(message: object, code: int) -> NoReturn:
    typer.echo(f"hadpo: {message}", err=True)
    sys.exit(code)
