"""The command `fetch`: what a backbone or a data set needs, from where its authors put it."""

import json
import sys
from typing import Annotated

import typer
from tqdm import tqdm

from hadpo import config, runs
from hadpo.cli.results import AsJson

commands = typer.Typer()


@commands.command()
def fetch(
    name: Annotated[str, typer.Argument(help="backbone or data set; none: list them all")] = "",
    check: Annotated[bool, typer.Option(help="look and compare checksums; fetch nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch what a backbone, an adapter or a data set needs; what is present is checked and stays.

    Files go to HADPO_MODELS and HADPO_DATA. An interrupted fetch goes on where it stopped.

    Example: hadpo fetch llava/1.5-7b
    """
    from hadpo.data import fetch as fetching

    if not name:
        _list(as_json)
        return
    source = fetching.source(name)
    if not as_json:
        typer.echo(f"{name}: {source.title}\nlicence: {source.licence}")
    if check:
        states = fetching.look_all(name, config.resolve_path, deep=True)
    else:
        states = fetching.fetch(name, config.resolve_path, progress=_bar)
    rows, problems = [], []
    for state in states:
        word = "fetched" if state.was_fetched else state.status
        note = state.note or state.item.note
        rows.append(
            {"status": word, "path": str(state.path), "source": state.item.source}
            | {"problem": state.problem, "note": note}
        )
        if state.problem or state.status != "present":
            problems.append(state.problem or state.detail)
        if not as_json:
            typer.echo(f"{word:8} {state.path}  ({state.item.source})")
            for text in (state.problem, note):
                typer.echo(f"{'':9}{text}") if text else None
    if as_json:
        typer.echo(json.dumps(rows))
    if problems:
        raise runs.BadEnvironment(
            f"{len(problems)} of {len(rows)} not there:\n  " + "\n  ".join(problems)
        )


def _list(as_json: bool) -> None:
    from hadpo.data import fetch as fetching

    rows = []
    for name in fetching.sources():
        source = fetching.source(name)
        states = [state.status for state in fetching.look_all(name, config.resolve_path)]
        rows.append(
            {"name": name, "title": source.title, "licence": source.licence}
            | {"gigabytes": round(sum(item.size for item in source.items) / 1e9, 3)}
            | {"present": f"{states.count('present')} of {len(states)}"}
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        size = f"{row['gigabytes']:.1f} GB"
        typer.echo(f"{row['name']:24} {size:>9}  {row['present']:8} {row['title']}")


def _bar(item: object):
    """A progress bar in a terminal; nothing if the output goes to a file."""
    if not sys.stderr.isatty():
        return None
    unit = "image" if getattr(item, "image_list", "") else "B"
    bar = tqdm(unit=unit, unit_scale=True, desc=str(getattr(item, "to", ""))[-40:])

    def update(done: int, total: int) -> None:
        bar.total = total or None
        bar.update(done - bar.n)
        if total and done >= total:
            bar.close()

    return update
