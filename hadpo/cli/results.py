"""The commands that look at what is there: `list`, `show`, `compare`, `audit`, ..."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hadpo import config, runs
from hadpo.plugins import choices
from hadpo.records import BadInput, read_text

commands = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable output")]


@commands.command("list")
def list_runs(as_json: AsJson = False) -> None:
    """List all runs: stage, status, recipe, key numbers, duration.

    Example: hadpo list --json
    """
    from hadpo import tables

    if as_json:
        typer.echo(json.dumps([vars(m) for m in runs.list_manifests(config.runs_folder())]))
        return
    typer.echo(tables.run_index(config.runs_folder()).to_markdown())


@commands.command()
def show(
    name: Annotated[str, typer.Argument(help="a run's name")], as_json: AsJson = False
) -> None:
    """Show the manifests of one run.

    Example: hadpo show mini-llava
    """
    folder = config.runs_folder() / name
    every = list(runs.list_manifests(folder.parent))
    found = [m for m in every if m.name == name]
    if not found:
        known = choices(name, {m.name for m in every})
        raise BadInput(f"no run {name!r} in {folder.parent}; {known}")
    if as_json:
        typer.echo(json.dumps([vars(m) for m in found]))
        return
    for manifest in found:
        typer.echo(
            f"{manifest.stage:9} {manifest.status:12} {manifest.duration_seconds:8.1f} s  "
            f"{folder / manifest.stage / 'report.html'}"
        )
        for key, value in (manifest.overrides | {"error": manifest.error}).items():
            if value:
                typer.echo(f"          {key} = {value}")


@commands.command()
def settings(
    stage: Annotated[str, typer.Argument(help="a stage; default: all of them")] = "",
    as_json: AsJson = False,
) -> None:
    """Print every setting: its type, its default, when it is read, and what it does.

    Example: hadpo settings train
    """
    if stage and stage not in config.SECTIONS:
        raise BadInput(f"no stage {stage!r}; {choices(stage, config.SECTIONS)}")
    rows = [
        {"stage": each, "section": s.section, "name": s.name, "type": s.type, "default": s.default}
        | {"read_if": ", ".join(when.cure for when in s.when), "help": s.help}
        for each in ([stage] if stage else config.SECTIONS)
        for s in config.settings(each).values()
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    before = ("", "")
    for row in rows:
        if (row["stage"], row["section"]) != before:
            before = (row["stage"], row["section"])
            typer.echo(f"\nstage {row['stage']}, section {row['section']}:")
        default = "" if row["default"] is None else f" = {row['default']!r}"
        when = f"   (read with {row['read_if']})" if row["read_if"] else ""
        typer.echo(f"  {row['name']}: {row['type']}{default}{when}\n      {row['help']}")


@commands.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="runs to compare")],
    format: Annotated[str, typer.Option(help="md, latex, html or csv")] = "md",
    anyway: Annotated[
        bool, typer.Option(help="also runs with other questions, reading or judge")
    ] = False,
) -> None:
    """Print runs beside the published numbers.

    Example: hadpo compare mini-llava mini-llava-seed1 --format md
    """
    from hadpo import tables

    found = tables.compare_runs(names, runs_folder=config.runs_folder(), anyway=anyway)
    typer.echo(tables.render(found, format))


@commands.command()
def audit(
    file: Annotated[Path, typer.Argument(help="a POPE table: CSV or Markdown; - reads stdin")],
    format: Annotated[str, typer.Option(help="md, latex, html or csv")] = "md",
    positives: Annotated[int, typer.Option(help="questions whose answer is yes")] = 1500,
    n: Annotated[int, typer.Option(help="questions of a split, where no column says")] = 3000,
) -> None:
    """Say which cells of a printed POPE table no confusion matrix can explain.

    Example: hadpo audit papers_results/reported/hadpo_pope.csv
    """
    from hadpo import tables

    expected = "give a CSV or Markdown table, or - for stdin"
    try:
        text = sys.stdin.read() if str(file) == "-" else read_text(file, expected=expected)
    except UnicodeDecodeError as error:
        raise BadInput(f"stdin: not UTF-8 (byte {error.start}); {expected}") from error
    rows = tables.read_pope_table(text, where="stdin" if str(file) == "-" else str(file))
    typer.echo(tables.audit_table(tables.audit(rows, positives=positives, n=n)).to(format))


@commands.command()
def report(name: Annotated[str, typer.Argument(help="a run's name")]) -> None:
    """Make a run's page, index.html, and join its stage reports; say what the page lacks.

    Example: hadpo report mini-llava
    """
    from hadpo import summary

    page = summary.write(name, config.runs_folder())
    with contextlib.suppress(BadInput):  # no stage has a notebook: the page says what there is
        runs.join_reports(name, config.runs_folder())
        page = summary.write(name, config.runs_folder())  # now it links to them
    for text in page.lacks:
        typer.echo(f"lacks {text}")
    typer.echo(page.path)


@commands.command()
def export(
    name: Annotated[str, typer.Argument(help="a finished run's name")],
    folder: Annotated[Path, typer.Argument(help="where to; it must not hold other files")],
) -> None:
    """Copy a run's manifests, metrics and tables: small files without paths, images or keys.

    Example: hadpo export mini-llava papers_results/reproduced/mini-llava
    """
    written = runs.export(name, folder, runs_folder=config.runs_folder())
    size = sum(path.stat().st_size for path in written)
    typer.echo(f"{len(written)} files, {size / 1000:.0f} kB in {folder}")
