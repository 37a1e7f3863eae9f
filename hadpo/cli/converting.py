"""The command `convert-dump`: an adapter out of a whole model that was saved with it inside."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from hadpo.cli.results import AsJson

commands = typer.Typer()


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
