"""Time and peak memory of steps, measured so that other work on the machine matters little."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import torch

from hadpo import config
from hadpo.records import BadInput
from hadpo.vlm.backbone import Backbone
from tools.speed import models
from tools.speed.models import Geometry
from tools.speed.steps import Steps

MEGABYTE = 2**20
EXACT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc: what is freed goes back at once


def prepare(
    backbone: Backbone,
    geometry: Geometry,
    kind: str,
    pairs: int,
    wanted: Sequence[str],
    *,
    images: int,
) -> Steps:
    """The steps of some pairs on a model; answers of equal length, so that nobody pads."""
    examples = models.pairs(geometry, kind, pairs, images=images)
    pixels = models.draw_pixels(geometry, images, dtype=backbone.dtype)
    return Steps(backbone, geometry, examples, pixels, wanted)


def seconds(ways: Steps, names: Sequence[str], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round; a round takes all steps, one after the other.

    On a CPU these are the process's own seconds, which a busy machine stretches less than those of
    the clock; on a GPU those of the clock, after it has finished. The first round warms up.
    """
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            start = _now(ways)
            ways.step(name)
            if number:
                found[name].append(_now(ways) - start)
    return found


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times faster: median, least and greatest of the rounds."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": median(ratios), "least": min(ratios), "greatest": max(ratios)}


def peak_memory(ways: Steps, name: str) -> float:
    """MB that one step adds at its peak to what was there before it, the model among it.

    Raises:
        BadInput: no GPU, and this system does not say what a process holds.
    """
    gc.collect()
    if ways.backbone.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ways.step(name)
        return (torch.cuda.max_memory_allocated() - before) / MEGABYTE
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    except OSError as error:
        raise BadInput(f"peak memory is measured on Linux or on a GPU only ({error})") from error
    before = resident()["VmRSS"]
    ways.step(name)
    return resident()["VmHWM"] - before


def resident() -> dict[str, float]:
    """MB that this process holds (VmRSS), and held at its peak (VmHWM); Linux only."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return {k: int(v) / 1024 for k, v in re.findall(r"(VmRSS|VmHWM):\s+(\d+)", text)}


def memory_in_processes(
    geometry: Geometry, kind: str, names: Iterable[str], *, pairs: int, checkpointing: bool
) -> dict[str, float]:
    """`peak_memory` of each step, each in a fresh process of its own, on the CPU."""
    found = {}
    for name in names:
        command = [sys.executable, "-m", "tools.speed", "memory", name, "--geometry", geometry.name]
        command += ["--kind", kind, "--pairs", str(pairs)]
        command += ["--checkpointing"] if checkpointing else []
        done = subprocess.run(
            command,
            cwd=config.ROOT,
            env=os.environ | EXACT_MALLOC,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BadInput(f"{' '.join(command)} ended with:\n{done.stderr[-2000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])["peak_mb"]
    return found


def memory_here(
    geometry: Geometry, kind: str, name: str, *, pairs: int, checkpointing: bool
) -> float:
    """`peak_memory` of one step in this process, on the CPU."""
    backbone = models.build(geometry, dtype=torch.float32, device=torch.device("cpu"))
    ways = prepare(backbone, geometry, kind, pairs, [name], images=pairs)
    ways.recompute_activations(checkpointing)
    return peak_memory(ways, name)


def _now(ways: Steps) -> float:
    if ways.backbone.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
