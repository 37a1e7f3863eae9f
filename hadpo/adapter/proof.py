"""The stage that merges: adapters into weights, and the proof that both say the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hadpo import backbones, batch
from hadpo.adapter import files, lora
from hadpo.backbones._base import Backbone
from hadpo.records import BadInput, Pair, read_jsonl

if TYPE_CHECKING:
    from hadpo.runs import Run

_ROUNDED_LOGPS = 1.0  # nats by which rounding to 16 bits may move the log-probability of an answer
_EXACT_LOGPS = 1e-2  # the same for the merge itself, in float32


def merge_run(run: Run) -> dict[str, dict[str, float]]:
    """Merge the adapter of the run and of each control; write `merged/` and `controls/*/merged/`.

    The sum is taken in float32, whatever the weights were trained in, and rounded once to
    `merged_dtype`. On `check_pairs` pairs the log-probabilities of the answers are compared:
    adapter against merge in memory, and against the merged files as the evaluation will load them.

    Returns:
        Adapter ("dpo", "sft", ...) -> its largest differences in nats, and the pairs checked.

    Raises:
        BadInput: the merged model does not say what the adapter says.
    """
    model = run.recipe.model
    if model is None:
        raise BadInput(f"recipe {run.recipe.name} has no model; merging needs one")
    settings = run.recipe.merge
    trained = run.earlier("train", "adapter").parent
    pairs = list(read_jsonl(run.earlier("prepare", "pairs.jsonl"), Pair))[: settings.check_pairs]
    sources = {"dpo": trained / "adapter"}
    for folder in sorted((trained / "controls").glob("*/adapter")):
        sources[folder.parent.name] = folder
    parts = {part: run.resolve(place) for part, place in model.files.items()}
    results = {}
    for name, folder in sources.items():
        target = run.path("merged") if name == "dpo" else run.path("controls", name, "merged")
        backbone = backbones.load(model.backbone, parts, dtype="float32", device=model.device)
        files.load(backbone, folder)
        with_adapter = _logps(backbone, pairs)
        lora.merge(backbone)
        merged = _logps(backbone, pairs)
        backbone.save_original(target, dtype=getattr(torch, settings.merged_dtype))
        saved = {part: str(path) for part, path in backbone.files_with(target).items()}
        del backbone
        again = backbones.load(model.backbone, saved, dtype=model.dtype, device=model.device)
        loaded = _logps(again, pairs)
        results[name] = _compare(with_adapter, merged, loaded, where=target)
        run.note(**{f"merged_{name}": {"files": saved, **results[name]}})
    run.path("metrics.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


@torch.no_grad()
def _logps(backbone: Backbone, pairs: Sequence[Pair]) -> Float[Tensor, "answers pairs"]:
    """Log-probabilities of the answers, pair by pair, in nats, on the CPU."""
    max_length = backbone.language_model.config.max_position_embeddings
    found = []
    for pair in pairs:
        packed = batch.pack([batch.tokenize(backbone, pair, max_length=max_length)])
        packed = packed.to(backbone.device)
        embeds = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))
        found.append(batch.answer_logps(backbone, packed, embeds).float().cpu())
    return torch.cat(found, dim=1) if found else torch.zeros(2, 0)


def _compare(adapter: Tensor, merged: Tensor, loaded: Tensor, *, where: Path) -> dict[str, float]:
    if not adapter.numel():
        return {"pairs": 0.0}
    exact = float((adapter - merged).abs().max())
    rounded = float((adapter - loaded).abs().max())
    if not exact <= _EXACT_LOGPS or not rounded <= _ROUNDED_LOGPS:
        raise BadInput(
            f"{where}: merged weights do not say what the adapter says: log-probabilities differ "
            f"by {exact:.2e} in memory, {rounded:.2e} from the files; try merged_dtype: float32"
        )
    return {
        "max_difference_merged": exact,
        "max_difference_files": rounded,
        "pairs": float(adapter.shape[1]),
    }
