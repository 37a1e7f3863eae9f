"""What a backbone or a data set needs, from where its authors put it, and in their own forms."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from hadpo import config, runs
from hadpo.cli.results import AsJson
from hadpo.records import BadInput

commands = typer.Typer()


@commands.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="backbones, adapters, data sets; none: list them all")
    ] = None,
    recipe: Annotated[str, typer.Option(help="all that this recipe reads")] = "",
    check: Annotated[bool, typer.Option(help="look and compare checksums; fetch nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch what backbones, adapters, data sets or a recipe need; what is present stays.

    Files go to HADPO_MODELS and HADPO_DATA. Room on the disk and access to the hub are checked
    before the first byte. An interrupted fetch goes on where it stopped.

    Example: hadpo fetch llava/1.5-7b pope

    Example: hadpo fetch --recipe llava-1.5-7b
    """
    from hadpo import doctor
    from hadpo.data import fetch as fetching

    wanted = list(names or ())
    if recipe:
        wanted += doctor.sources_of(config.load_recipe(recipe))
    if not wanted and not recipe:
        _list(as_json)
        return
    wanted = list(dict.fromkeys(wanted))
    known = {name: fetching.look_all(name, config.resolve_path) for name in wanted}
    if not check:
        _check_before(known, as_json)
    rows, problems = [], []
    for name in wanted:
        source = fetching.source(name)
        if not as_json:
            typer.echo(f"{name}: {source.title}\nlicence: {source.licence}")
        if check:
            states = fetching.look_all(name, config.resolve_path, deep=True)
        else:
            states = fetching.fetch(name, config.resolve_path, progress=_bar)
        for state in states:
            word = "fetched" if state.was_fetched else state.status
            note = state.note or state.item.note
            row = {"name": name, "status": word, "path": str(state.path)}
            row |= {"source": state.item.source, "problem": state.problem, "note": note}
            rows.append(row)
            is_extra = state.item.made and not recipe and any(not i.made for i in source.items)
            if state.status != "present" and not is_extra:
                problems.append(state.problem or state.detail)
            if not as_json:
                typer.echo(f"{word:8} {state.path}  ({state.item.source})")
                for text in (state.problem, note):
                    typer.echo(f"{'':9}{text}") if text else None
    if as_json:
        typer.echo(json.dumps(rows))
    if problems:
        listed = "\n  ".join(problems)
        raise runs.BadEnvironment(f"{len(problems)} of {len(rows)} not there:\n  {listed}")


def _check_before(known: dict[str, list[Any]], as_json: bool) -> None:
    """Say how much will be fetched; stop where the disk or the hub would stop it later.

    Raises:
        BadEnvironment: too little room, or a licence of the hub that must be accepted first.
    """
    from hadpo.data import fetch as fetching

    states = [state for found in known.values() for state in found]
    size, crowded = fetching.missing_bytes(states)
    if size and not as_json:
        typer.echo(f"to fetch: {size / 1e9:.1f} GB, for {', '.join(known)}")
    absent = [state.item for state in states if state.status != "present"]
    problems = [crowded] * bool(crowded) + fetching.check_access(absent)
    if problems:
        raise runs.BadEnvironment("nothing was fetched:\n  " + "\n  ".join(problems))


def find_adapter(text: str) -> str:
    """Where a published adapter lies, as a recipe's path; it was fetched before, or is a folder.

    Args:
        text: a folder, a hub id (owner/name), or a name of `hadpo fetch`.

    Raises:
        BadEnvironment: a hub id whose files are not here; says the command that fetches them.
        BadInput: neither.
    """
    from hadpo.data import fetch as fetching

    if Path(text).expanduser().exists():
        return str(Path(text).expanduser().resolve())
    for name in fetching.sources():
        for item in fetching.source(name).items:
            if name.startswith("adapters/") and text in (name, item.hub):
                place = config.resolve_path(item.to)
                if fetching.look(item, place).status == "present":
                    return item.to
                raise runs.BadEnvironment(f"{text} is not at {place} yet: hadpo fetch {name}")
    if config.HUB_ID.fullmatch(text):
        to = f"${{HADPO_MODELS}}/{text.partition('/')[2]}"
        place = config.resolve_path(to)
        if (place / "adapter_config.json").is_file():
            return to
        raise runs.BadEnvironment(
            f"adapter {text}: no such folder here, and nothing at {place}; if it is a hub id: "
            f"hf download {text} --local-dir {place}"
        )
    raise BadInput(f"--adapter {text!r}: no such folder, and no hub id (owner/name) either")


def _list(as_json: bool) -> None:
    from hadpo.data import fetch as fetching

    rows, sizes = [], {}
    for name in fetching.sources():
        source = fetching.source(name)
        states = [state.status for state in fetching.look_all(name, config.resolve_path)]
        sizes[name] = sum(item.size for item in source.items)
        row = {"name": name, "title": source.title, "licence": source.licence}
        row |= {"gigabytes": round(sizes[name] / 1e9, 3)}
        rows.append(row | {"present": f"{states.count('present')} of {len(states)}"})
    if as_json:
        typer.echo(json.dumps(rows))
        return
    wide = max(map(len, sizes))
    for row in rows:
        size = sizes[row["name"]]
        shown = "-"  # not known
        for unit, of in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
            shown = f"{size / of:.1f} {unit}" if size >= of / 10 else shown
        typer.echo(f"{row['name']:{wide}} {shown:>9}  {row['present']:8} {row['title']}")


def _bar(item: object) -> Callable[[int, int], None]:
    """A progress bar in a terminal; nothing if the output goes to a file."""
    unit = "image" if getattr(item, "image_list", "") else "B"
    name = str(getattr(item, "to", ""))[-40:]
    bar = tqdm(unit=unit, unit_scale=True, desc=name, disable=None)

    def update(done: int, total: int) -> None:
        bar.total = total or None
        bar.update(done - bar.n)
        if total and done >= total:
            bar.close()

    return update


@commands.command("convert-dump")
def convert_dump(
    dump: Annotated[Path, typer.Argument(help="the file, or its folder; 13 GB for LRV V2")],
    base: Annotated[Path, typer.Argument(help="folder of the base that it was trained from")],
    folder: Annotated[Path, typer.Argument(help="gets the adapter and base_difference.json")],
    alpha: Annotated[float, typer.Option(help="LRV V2 was trained with 32 at rank 8")] = 32.0,
    as_json: AsJson = False,
) -> None:
    """Take the adapter out of a dump, as LRV V2 was published; say how far its base is from yours.

    Example: hadpo convert-dump models/lrv-v2-dump models/mplug-owl-llama-7b-ft models/lrv-v2
    """
    from hadpo import adapter

    report = adapter.from_dump(dump, base, folder, alpha=alpha)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report)))
        return
    typer.echo(f"rank {report.rank} on {', '.join(report.targets)}: {report.lora_tensors} tensors")
    typer.echo(
        f"base: {report.equal} of {report.compared} tensors are equal, number for number; the "
        f"largest difference is {report.largest_difference:.3g}; {len(report.missing)} missing, "
        f"{len(report.unexpected)} unexpected"
    )
    for key, distance in report.farthest.items():
        typer.echo(f"  {distance:.3g}  {key}")
    if not report.adapter_is_all:
        typer.echo("base and adapter together are not the dumped model; see base_difference.json")
    typer.echo(f"the adapter: {folder}")
