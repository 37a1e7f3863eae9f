"""`python -m tools.speed scale`: time and memory of a training as its pairs grow in number.

A training is measured whole (`epoch`: one pass over 1x, 4x and 16x the pairs of a tiny LLaVA), and
what its data path holds (`data`: records read, checked and put in order, with the 576 image tokens
of LLaVA-1.5, and then a few updates). Each measurement runs in a process of its own, on one thread.
"""

import gc
import itertools
import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image

from hadpo import adapter, trainer
from hadpo.config import TrainConfig
from hadpo.records import Pair, read_jsonl, write_jsonl
from tools.speed import machine, measure, models, results

SIZES = {"epoch": (32, 128, 512), "data": (1_000, 10_000, 100_000)}
UPDATES = {"epoch": None, "data": 4}  # that are made; None: all
_PIXELS = {"epoch": 56, "data": 336}
_IMAGES = 64
_WORDS = ("there", "is", "a", "red", "blue", "small", "large", "circle", "cup", "left", "of")


def command(
    json_file: results.JsonFile = None,
    share: Annotated[float, typer.Option(help="of the sizes, to try it out")] = 1.0,
    folder: results.Folder = None,
    publish: results.Publish = False,
) -> None:
    """Time and memory of a training at growing numbers of pairs.

    Example: python -m tools.speed scale --json scale.json
    """
    out = results.folder_for(folder, publish=publish)
    found: dict[str, Any] = {"machine": machine.describe() | {"threads": 1}}
    with tempfile.TemporaryDirectory() as place:
        for what, sizes in SIZES.items():
            counts = [max(4, round(size * share)) for size in sizes]
            found[what] = [in_own_process(what, count, Path(place)) for count in counts]
            for row in found[what]:
                typer.echo(json.dumps({"what": what} | row))
    first, *_, last = found["epoch"]
    found["seconds_per_pair"] = {
        "first": first["cpu_seconds"] / first["pairs"],
        "last": last["cpu_seconds"] / last["pairs"],
    }
    least, *_, most = found["data"]
    found["data_bytes_per_pair"] = round(
        (most["peak_mb"] - least["peak_mb"]) * measure.MEGABYTE / (most["pairs"] - least["pairs"])
    )
    for path in (out / "scale.json", json_file):
        results.save_json(found, path)


def one(what: str, count: str, folder: str) -> None:
    """Measure one size in this process, and print what was found."""
    torch.set_num_threads(1)
    typer.echo(json.dumps(here(what, int(count), Path(folder))))


def here(what: str, count: int, folder: Path) -> dict[str, Any]:
    """CPU seconds, and MB above the loaded model, of a training on `count` pairs.

    Raises:
        BadInput: this system does not say what a process holds.
    """
    small = {"width": 32, "mlp_width": 48, "tower_width": 16, "tower_mlp_width": 24}
    backbone = models.talking(replace(models.TALKING, image_size=_PIXELS[what], **small))
    path = folder / f"pairs-{count}.jsonl"
    write_jsonl(path, _pairs(count, folder))
    warm = [*itertools.islice(read_jsonl(path, Pair), 4)]
    list(trainer.steps(backbone, warm, _SETTINGS))  # code and buffers that any training needs
    adapter.detach(backbone)
    gc.collect()
    measure.restart_peak()
    before, start = measure.resident()["VmRSS"], time.process_time()
    records = list(read_jsonl(path, Pair))
    records_mb = measure.resident()["VmRSS"] - before
    steps = trainer.steps(backbone, records, _SETTINGS)
    made = [next(steps)]
    first = time.process_time()
    made += itertools.islice(steps, UPDATES[what] and UPDATES[what] - 1)
    return {
        "pairs": count,
        "updates": len(made),
        "cpu_seconds": round(time.process_time() - start, 3),
        "cpu_seconds_to_first_update": round(first - start, 3),
        "records_mb": round(records_mb, 1),
        "peak_mb": round(measure.resident()["VmHWM"] - before, 1),
    }


_SETTINGS = TrainConfig(
    batch_pairs=16, micro_batch_pairs=4, lora_rank=4, max_length=2048, checkpoint_every=1_000_000
)


def _pairs(count: int, folder: Path) -> Iterator[Pair]:
    """Pairs with descriptions of about 60 words, and the pictures they are about."""
    draw = random.Random(count)
    for number in range(min(_IMAGES, count)):
        Image.effect_noise((64, 48), 60).convert("RGB").save(folder / f"{number}.png")
    for number in range(count):
        chosen, rejected = (" ".join(draw.choices(_WORDS, k=60)) + "." for _ in range(2))
        yield Pair(
            pair_id=f"pair-{number}",
            image_id=str(number % _IMAGES),
            image=str(folder / f"{number % _IMAGES}.png"),
            instruction="Describe this image in detail.",
            chosen=chosen,
            rejected=rejected,
            kind="description",
            source="scale",
        )


def in_own_process(what: str, count: int, folder: Path) -> dict[str, Any]:
    """`here` in a fresh process: its peak does not depend on what ran before."""
    command = measure.one("scale", what, str(count), str(folder))
    return measure.in_own_process(command, measure.EXACT_MALLOC)
