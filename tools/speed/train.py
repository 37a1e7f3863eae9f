"""`python -m tools.speed train`: a training step, ours and the peers'."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hadpo.records import BadInput, write_text
from hadpo.vlm.kernels import fuse
from hadpo.vlm.precision import capability, check_kernels, choose_device
from tools.speed import cost, equality, machine, measure, models, report, results, steps
from tools.speed.models import Geometry
from tools.speed.report import Report

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
    json_file: results.JsonFile = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    geometry: Annotated[str, typer.Option(help="sizes; default: those of the device")] = "",
    rounds: Annotated[int, typer.Option(help="interleaved rounds", min=1)] = 5,
    memory: Annotated[bool, typer.Option(help="measure peak memory, too")] = True,
    targets: Annotated[str, typer.Option(help="of the LoRA; all: every linear layer")] = "",
    recompute: Annotated[bool, typer.Option(help="recompute activations, for everybody")] = False,
    lora: Annotated[str, typer.Option(help="how ours computes it: fused or peft")] = "fused",
    kernels: Annotated[bool, typer.Option(help="Liger's in the model, but for TRL's")] = False,
    folder: results.Folder = None,
    publish: results.Publish = False,
) -> None:
    """Equality first, then time and peak memory; a table, a figure and a JSON file.

    Example: python -m tools.speed train --json speed.json
    """
    if lora not in ("fused", "peft"):
        raise BadInput(f"--lora: found {lora!r}, expected fused or peft")
    if kernels:
        check_kernels(capability(choose_device(device)))
    out = results.folder_for(folder, publish=publish)
    way = Way(targets=targets, recompute=recompute, lora=lora, kernels=kernels)
    names = [geometry] if geometry else _GEOMETRIES[choose_device(device).type]
    reports = []
    for name in names:
        sizes = models.find(name)
        for step, reason in steps.available(sizes).items():
            if reason:
                typer.echo(f"{name}: without {steps.NAMES[step]}: {reason}", err=True)
        found = run(name, device=device, rounds=rounds, memory=memory, way=way)
        typer.echo(found.table())
        save(found, out)
        reports.append(found)
    first, *others = (found.values for found in reports)
    more = {"others": {o["geometry"]["name"]: o for o in others}} if others else {}
    results.save_json(first | more, json_file)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """How every step is taken."""

    targets: str = ""  # of the LoRA; "all": every linear layer; empty: q, k and v
    recompute: bool = False
    lora: str = "fused"  # ours; "peft": as the peers have it
    kernels: bool = False  # Liger's in the language model, which all steps but TRL's share


def run(
    geometry: str,
    *,
    device: str = "cpu",
    rounds: int = 5,
    memory: bool = True,
    way: Way | None = None,
) -> Report:
    """Measure everything on one geometry.

    Args:
        geometry: a name of `models.GEOMETRIES`.
        device: cpu or cuda; a CPU is measured in float32 on one thread, a GPU in bfloat16.
        rounds: of the times.
        memory: whether to measure peak memory, too; on a CPU in fresh processes, which takes most
            of the time.
        way: how every step is taken; None: as a recipe without settings of its own.

    Raises:
        BadInput: somebody computes something else; then no time means anything.
    """
    way = way or Way()
    targets = models.ALL_LINEAR if way.targets == "all" else way.targets
    sizes = dataclasses.replace(models.find(geometry), targets=targets)
    place = choose_device(device)
    is_gpu = place.type == "cuda"
    threads = torch.get_num_threads()
    if not is_gpu:
        torch.set_num_threads(1)
    try:
        found: dict[str, Any] = {"machine": machine.describe(place), "rounds": rounds}
        found["geometry"] = _facts(sizes)
        found["way"] = dataclasses.asdict(way)
        found["dtype"] = "bfloat16" if is_gpu else "float32"
        found["clock"] = "seconds of the clock" if is_gpu else "CPU seconds of the process"
        found["absent"] = {k: why for k, why in steps.available(sizes).items() if why}
        tiny = "tiny" if sizes.family == "llava" else "tiny-minigpt4"
        found["equal"] = equality.measure(tiny)
        found |= _measured(
            sizes, place, rounds, dtype=getattr(torch, found["dtype"]), memory=memory, way=way
        )
        return Report(report.summary(found))
    finally:
        torch.set_num_threads(threads)


def save(found: Report, folder: Path) -> list[Path]:
    """Write the table, the figures and the JSON into `folder`."""
    written = [folder / f"{found.name}.md", folder / f"{found.name}.json"]
    results.save_json(found.values, written[1])
    write_text(written[0], found.table())
    return written + found.figure().save(folder, found.name)


def _measured(
    sizes: Geometry,
    device: torch.device,
    rounds: int,
    *,
    dtype: torch.dtype,
    memory: bool,
    way: Way,
) -> dict[str, Any]:
    backbone = models.build(sizes, dtype=dtype, device=device)
    if way.kernels:
        fuse(backbone.language_model)
    if way.lora == "peft":
        models.leave_lora_to_peft(backbone)
    time, seconds, tflop, mfu = {}, {}, {}, {}
    peaks: dict[str, dict[str, float]] = {}
    peak, clock = machine.peak_flops(device), measure.clock_of(device)
    for kind in sizes.answers:
        single = _available(_SINGLE, sizes)
        ways = measure.prepare(backbone, sizes, kind, sizes.pairs, single, images=sizes.pairs)
        if way.recompute:
            ways.recompute_activations(True)
        alone = measure.seconds(_taken(ways, single), rounds=rounds, clock=clock)
        if memory and device.type == "cuda":
            peaks[kind] = {n: measure.peak_memory(ways, n) for n in _available(_REMEMBERED, sizes)}
        del ways
        group = _available(_GROUPED, sizes)
        ways = measure.prepare(backbone, sizes, kind, GROUP, group, images=1)
        if way.recompute:
            ways.recompute_activations(True)
        together = measure.seconds(_taken(ways, group), rounds=max(rounds - 2, 1), clock=clock)
        del ways
        time[kind] = report.time_ratios(alone, together)
        seconds[kind] = report.median_seconds(alone, sizes.pairs)
        seconds[kind][steps.GROUPED] = report.median_seconds(together, GROUP)[steps.GROUPED]
        flops = {n: cost.pair_flops(sizes, kind, n, pairs_per_row=GROUP) for n in seconds[kind]}
        tflop[kind] = {n: value / 1e12 for n, value in flops.items()}
        mfu[kind] = {n: v / seconds[kind][n] / peak for n, v in flops.items()} if peak else {}
    if memory and device.type != "cuda":
        peaks = _memory_on_cpu(models.find(_MEMORY_GEOMETRY.get(sizes.name, sizes.name)))
    return {"time": time, "seconds": seconds, "tflop": tflop, "mfu": mfu, "memory_mb": peaks}


def _taken(ways: steps.Steps, names: Sequence[str]) -> dict[str, Callable[[], float]]:
    return {name: partial(ways.step, name) for name in names}


def _memory_on_cpu(sizes: Geometry) -> dict[str, dict[str, float]]:
    wanted = _available(_REMEMBERED, sizes)
    return {
        name: measure.memory_in_processes(
            sizes, "desc", wanted, pairs=_MEMORY_PAIRS, checkpointing=is_checkpointing
        )
        for name, is_checkpointing in (("desc", False), ("desc_checkpointing", True))
    }


def _available(names: Sequence[str], sizes: Geometry) -> list[str]:
    reasons = steps.available(sizes)
    return [name for name in names if not reasons[name]]


def _facts(sizes: Geometry) -> dict[str, Any]:
    return dataclasses.asdict(sizes) | {
        "image_tokens": sizes.image_tokens,
        "text_tokens": sizes.tokens_before + sizes.rest,
    }
