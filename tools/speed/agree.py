"""`python -m tools.speed agree`: how far a fused path drifts from peft's in a training, and why.

The same 60 updates of the mini LLaVA on a 16-bit base, with LoRA computed by peft in float32 (the
reference), by `adapter.low_rank` in the base's numbers, and by peft with attention in segments: a
mere change of rounding, the yardstick.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from torch import Tensor

from hadpo import adapter, backbones, config, doctor, pairs, trainer
from hadpo.adapter import low_rank
from hadpo.records import Pair, read_jsonl
from hadpo.runs import open_run
from tools.speed import machine, models, results

PEFT, FUSED, SEGMENTS = "peft", "fused", "peft, segments"
_RECIPE = "mini/llava"


def command(
    json_file: results.JsonFile = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help="of the base")] = "bfloat16",
    updates: Annotated[int, typer.Option(min=1)] = 60,
    rate: Annotated[float, typer.Option(help="learning rate")] = 2e-4,
) -> None:
    """Losses and weights of a training, fused against peft, beside a mere change of rounding.

    Example: python -m tools.speed agree --updates 60 --rate 2e-6
    """
    found = run(device=device, dtype=dtype, updates=updates, rate=rate)
    for name in (FUSED, SEGMENTS):
        row = found[name]
        typer.echo(
            f"{name:15} loss {row['loss']:.2e} in the mean, weights {row['weights']:.4f} of their "
            f"size, size {row['size']:.4f}"
        )
    typer.echo(f"fused / segments: {found['drift']:.2f} (at most 1.5)")
    results.save_json(found, json_file)


def run(*, device: str, dtype: str, updates: int, rate: float) -> dict[str, Any]:
    """Distances of two ways to train from peft's; `drift` is the ratio of those of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        records = _pairs(Path(folder))
        trained = {
            name: _train(name, records, device=device, dtype=dtype, updates=updates, rate=rate)
            for name in (PEFT, FUSED, SEGMENTS)
        }
    losses, weights = trained[PEFT]
    found: dict[str, Any] = {
        "machine": machine.describe(device),
        **{"dtype": dtype, "updates": updates, "rate": rate},
        "loss_first_last": [losses[0], losses[-1]],
    }
    whole = _norm(weights)
    for name in (FUSED, SEGMENTS):
        mine, own = trained[name]
        found[name] = {
            "loss": sum(abs(a - b) for a, b in zip(mine, losses, strict=True)) / len(losses),
            "weights": _norm({key: own[key] - value for key, value in weights.items()}) / whole,
            "size": _norm(own) / whole,
        }
    found["drift"] = found[FUSED]["weights"] / found[SEGMENTS]["weights"]
    return found


def _pairs(folder: Path) -> list[Pair]:
    """Pairs of a small world, made of ground truth as HA-DPO's were."""
    sizes = {"mini_train_images": 120, "mini_test_images": 4}
    with mock.patch.dict(os.environ, {"HADPO_RUNS": str(folder)}):
        run = open_run("prepare", _RECIPE, "agree", {"pair_source": "published", **sizes})
        doctor.inputs(run)
        pairs.prepare(run)
    return list(read_jsonl(run.path("pairs.jsonl"), Pair))


def _train(
    name: str, records: Sequence[Pair], *, device: str, dtype: str, updates: int, rate: float
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses by update, and B A of every layer after the last."""
    recipe = config.load_recipe(_RECIPE)
    assert recipe.model is not None
    files = backbones.files_of(recipe, config.resolve_path)
    backbone = backbones.load(recipe.model.backbone, files, dtype=dtype, device=device)
    settings = replace(
        recipe.train,
        **{"gamma": 0.0, "learning_rate": rate, "steps": updates, "warmup_steps": 0},
        **{"batch_pairs": 4, "micro_batch_pairs": 4, "description_share": -1.0, "controls": ""},
        **{"lora_targets": models.ALL_LINEAR, "lora_rank": 16, "lora_alpha": 32.0},
        attention="segments" if name == SEGMENTS else "dense",
    )
    peft = mock.patch.object(low_rank, "install", lambda model: None)
    with contextlib.nullcontext() if name == FUSED else peft:
        losses = [float(s.metrics["loss"] or 0) for s in trainer.steps(backbone, records, settings)]
    weights = {key: value.cpu() for key, value in adapter.state(backbone).items()}
    ends = ".lora_A.weight"
    layers = [key.removesuffix(ends) for key in weights if key.endswith(ends)]
    return losses, {k: weights[f"{k}.lora_B.weight"] @ weights[k + ends] for k in layers}


def _norm(weights: dict[str, Tensor]) -> float:
    return float(torch.stack([value.double().norm() for value in weights.values()]).norm())
