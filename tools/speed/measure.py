"""Time and peak memory, measured so that other work on the machine matters little."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

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


def seconds(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of each way in each round; a round takes all ways, one after the other.

    The process's own seconds are stretched less on a busy machine than those of the wall clock. The
    first round warms up and is not counted.
    """
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if number:
                measured[name].append(clock() - start)
    return measured


def clock_of(device: torch.device) -> Callable[[], float]:
    """Of a GPU the wall clock after it has finished; of a CPU the process's own seconds."""

    def after_the_gpu() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return after_the_gpu if device.type == "cuda" else time.process_time


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
    restart_peak()
    before = resident()["VmRSS"]
    ways.step(name)
    return resident()["VmHWM"] - before


def restart_peak() -> None:
    """From here on, `VmHWM` of `resident` is the peak.

    Raises:
        BadInput: this system does not say what a process holds.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise BadInput(f"peak memory is measured on Linux or on a GPU only ({error})") from error


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
        command = ["-m", "tools.speed", "memory", name, "--geometry", geometry.name]
        command += ["--kind", kind, "--pairs", str(pairs)]
        command += ["--checkpointing"] if checkpointing else []
        found[name] = in_own_process(command, EXACT_MALLOC)["peak_mb"]
    return found


def memory_here(
    geometry: Geometry, kind: str, name: str, *, pairs: int, checkpointing: bool
) -> float:
    """`peak_memory` of one step in this process, on the CPU."""
    backbone = models.build(geometry, dtype=torch.float32)
    ways = prepare(backbone, geometry, kind, pairs, [name], images=pairs)
    ways.recompute_activations(checkpointing)
    return peak_memory(ways, name)


def one(module: str, *arguments: str) -> list[str]:
    """For `in_own_process`: calls `one(*arguments)` of a module of this package."""
    code = f"import sys; from tools.speed import {module}; {module}.one(*sys.argv[1:])"
    return ["-c", code, *arguments]


def in_own_process(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON that Python prints last, in a process of its own, on one thread.

    Raises:
        BadInput: the process failed.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, *command],
        cwd=config.ROOT,
        env={**os.environ, **threads, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BadInput(f"{' '.join(command)} ended with:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
