"""`python -m hadpo.speed train`: a training step, ours and the peers'."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hadpo import config, figures
from hadpo.backbones._base import choose_device
from hadpo.speed import cost, equality, machine, measure, models, report, steps
from hadpo.speed.models import Geometry

FOLDER = config.ROOT / "papers_results" / "speed"
GROUP = 4  # pairs of one image per row
_GEOMETRIES = {"cpu": ("toy",), "cuda": ("llava-7b", "minigpt4-7b")}
_MEMORY_GEOMETRY = {"toy": "toy-memory"}  # others are measured as they are
_MEMORY_PAIRS = 2
_SINGLE = (
    *(steps.ORIGINAL, steps.TRL, steps.TRL_COMPACTION, steps.LIGER),
    *(steps.OURS, steps.SEGMENTS, steps.CACHED),
)
_GROUPED = (steps.TRL_COMPACTION, steps.GROUPED)
_REMEMBERED = (steps.ORIGINAL, steps.TRL_COMPACTION, steps.LIGER, steps.OURS)


def command(
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    geometry: Annotated[str, typer.Option(help="sizes; default: those of the device")] = "",
    rounds: Annotated[int, typer.Option(help="interleaved rounds", min=1)] = 5,
    folder: Annotated[Path, typer.Option(help="for table and figure")] = FOLDER,
) -> None:
    """Equality first, then time and peak memory; a table, a figure and a JSON file.

    Example: python -m hadpo.speed train --json speed.json
    """
    place = choose_device(device)
    names = [geometry] if geometry else _GEOMETRIES[place.type]
    reports = []
    for name in names:
        sizes = models.find(name)
        for step, reason in steps.available(sizes).items():
            if reason:
                typer.echo(f"{name}: without {steps.NAMES[step]}: {reason}", err=True)
        found = run(name, device=place, rounds=rounds)
        typer.echo(report.table(found))
        save(found, folder)
        reports.append(found)
    if json_file is not None:
        first, *others = reports
        value = first | ({"others": {r["geometry"]["name"]: r for r in others}} if others else {})
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def run(geometry: str, *, device: torch.device, rounds: int) -> dict[str, Any]:
    """Measure everything on one geometry.

    Args:
        geometry: a name of `models.GEOMETRIES`.
        device: a CPU is measured in float32 on one thread, a GPU in bfloat16.
        rounds: of the times.

    Raises:
        BadInput: somebody computes something else; then no time means anything.
    """
    sizes = models.find(geometry)
    is_gpu = device.type == "cuda"
    threads = torch.get_num_threads()
    if not is_gpu:
        torch.set_num_threads(1)
    try:
        found: dict[str, Any] = {"machine": machine.describe(device), "rounds": rounds}
        found["geometry"] = _facts(sizes)
        found["dtype"] = "bfloat16" if is_gpu else "float32"
        found["clock"] = "seconds of the clock" if is_gpu else "CPU seconds of the process"
        found["absent"] = {k: why for k, why in steps.available(sizes).items() if why}
        tiny = "tiny" if sizes.family == "llava" else "tiny-minigpt4"
        found["equal"] = equality.measure(tiny)
        found |= _measured(sizes, device, rounds, dtype=getattr(torch, found["dtype"]))
        return report.summary(found)
    finally:
        torch.set_num_threads(threads)


def save(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write the table, the figure and the JSON into `folder`."""
    name = f"train-{'cuda' if 'gpu' in found['machine'] else 'cpu'}-{found['geometry']['name']}"
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.md", folder / f"{name}.json"]
    written[0].write_text(report.table(found), encoding="utf-8")
    written[1].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = report.rows(found)
    is_mini = found["geometry"]["name"].startswith("tiny")
    return written + figures.speed_bars(rows, is_mini=is_mini).save(folder, name)


def _measured(
    sizes: Geometry, device: torch.device, rounds: int, *, dtype: torch.dtype
) -> dict[str, Any]:
    backbone = models.build(sizes, dtype=dtype, device=device)
    time, seconds, tflop, mfu = {}, {}, {}, {}
    memory: dict[str, dict[str, float]] = {}
    peak = machine.peak_flops(device)
    for kind in sizes.answers:
        single = _there(_SINGLE, sizes)
        ways = measure.prepare(backbone, sizes, kind, sizes.pairs, single, images=sizes.pairs)
        alone = measure.seconds(ways, single, rounds=rounds)
        if device.type == "cuda":
            memory[kind] = {n: measure.peak_memory(ways, n) for n in _there(_REMEMBERED, sizes)}
        del ways
        group = _there(_GROUPED, sizes)
        ways = measure.prepare(backbone, sizes, kind, GROUP, group, images=1)
        together = measure.seconds(ways, group, rounds=max(rounds - 2, 1))
        del ways
        time[kind] = report.time_ratios(alone, together)
        seconds[kind] = report.median_seconds(alone, sizes.pairs)
        seconds[kind][steps.GROUPED] = report.median_seconds(together, GROUP)[steps.GROUPED]
        flops = {n: cost.pair_flops(sizes, kind, n, pairs_per_row=GROUP) for n in seconds[kind]}
        tflop[kind] = {n: value / 1e12 for n, value in flops.items()}
        mfu[kind] = {n: v / seconds[kind][n] / peak for n, v in flops.items()} if peak else {}
    if device.type != "cuda":
        memory = _memory_on_cpu(models.find(_MEMORY_GEOMETRY.get(sizes.name, sizes.name)))
    return {"time": time, "seconds": seconds, "tflop": tflop, "mfu": mfu, "memory_mb": memory}


def _memory_on_cpu(sizes: Geometry) -> dict[str, dict[str, float]]:
    wanted = _there(_REMEMBERED, sizes)
    return {
        name: measure.memory_in_processes(
            sizes, "desc", wanted, pairs=_MEMORY_PAIRS, checkpointing=is_checkpointing
        )
        for name, is_checkpointing in (("desc", False), ("desc_checkpointing", True))
    }


def _there(names: Sequence[str], sizes: Geometry) -> list[str]:
    reasons = steps.available(sizes)
    return [name for name in names if not reasons[name]]


def _facts(sizes: Geometry) -> dict[str, Any]:
    return dataclasses.asdict(sizes) | {
        "image_tokens": sizes.image_tokens,
        "answers": sizes.answers,
    }
