"""The stage that merges: adapters into weights, and the proof that both say the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hadpo import backbones, batch
from hadpo.adapter import files, lora
from hadpo.backbones._base import Backbone
from hadpo.records import BadInput, Pair, input_hashes, read_jsonl, write_text

if TYPE_CHECKING:
    from hadpo.runs import Run

# Nats per token by which an answer's log-probability may move.
_BY_ROUNDING = 0.05  # weights of 16 bits, and a model that computes in 16 bits
_BY_MERGING = 1e-3  # float32 throughout


def merge_run(run: Run) -> dict[str, dict[str, float]]:
    """Merge the adapter of the run and of each control; write `merged/` and `controls/*/merged/`.

    Of LLaVA, `merged_transformers/` holds the same for those who load models with transformers.

    The sum is taken in float32 of the base as it was published, whatever numbers it was trained in
    (16 bits, or quantised), and rounded once to `merged_dtype`. On `pairs_to_check` the
    log-probability of each answer, over its tokens, is compared: float32 base with adapter against
    the float32 merge in memory, and against the merged files, loaded in the recipe's dtype. These
    are not quantised: what that would add says nothing about the merge.

    Returns:
        Adapter ("dpo", "sft", ...) -> the largest difference of any chosen or rejected answer, in
        nats per token, for each of the two comparisons; and how many pairs were compared.

    Raises:
        BadInput: the merged model does not say what the adapter says.
    """
    parts = backbones.files_of(run.recipe, run.resolve)
    model = run.recipe.model
    assert model is not None  # `files_of` refused a recipe without one
    settings = run.recipe.merge
    pairs = pairs_to_check(run)
    sources = {"dpo": folder_of(run)}
    if not settings.adapter_folder:
        for folder in sorted((sources["dpo"].parent / "controls").glob("*/adapter")):
            sources[folder.parent.name] = folder
    prepared = run.earlier("prepare", "pairs.jsonl")
    places = [prepared, *sources.values(), *parts.values()]
    run.note(inputs=input_hashes(places, below=run.folder.parent))
    results = {}
    for name, folder in sources.items():
        target = run.path("merged") if name == "dpo" else run.path("controls", name, "merged")
        device = _roomy(model.device, map(Path, parts.values()))
        backbone = backbones.load(model.backbone, parts, dtype="float32", device=device)
        files.load(backbone, folder, projector=settings.adapter_projector)
        with_adapter = _logps(backbone, pairs)
        lora.merge(backbone)
        merged = _logps(backbone, pairs)
        backbone.save_original(target, dtype=getattr(torch, settings.merged_dtype))
        saved = {part: str(path) for part, path in backbone.files_with(target).items()}
        folders = {"merged files": saved}
        whole = run.path("merged_transformers")
        wants_whole = name == "dpo" and settings.save_transformers
        if wants_whole and backbone.save_transformers(
            whole, dtype=getattr(torch, settings.merged_dtype)
        ):
            folders["transformers folder"] = {"language_model": str(whole)}
        del backbone
        results[name] = {"pairs compared": float(len(pairs))}
        for what, places in folders.items():
            again = backbones.load(model.backbone, places, dtype=model.dtype, device=device)
            loaded = _logps(again, pairs)
            del again
            results[name] |= _compare(with_adapter, merged, loaded, what=what, where=target)
        noted = {"files": saved, "projector": settings.adapter_projector, "adapter": str(folder)}
        run.note(**{f"merged_{name}": noted | results[name]})
    write_text(run.path("metrics.json"), json.dumps(results, indent=1))
    return results


def folder_of(run: Run) -> Path:
    """The adapter that is merged: the published one that the recipe names, or the trained one."""
    named = run.recipe.merge.adapter_folder
    return run.resolve(named) if named else run.earlier("train", "adapter")


def pairs_to_check(run: Run) -> list[Pair]:
    """The pairs that adapter and merge are compared on: the first `check_pairs` of the training."""
    pairs = read_jsonl(run.earlier("prepare", "pairs.jsonl"), Pair)
    return list(islice(pairs, run.recipe.merge.check_pairs))


@torch.no_grad()
def _logps(backbone: Backbone, pairs: Sequence[Pair]) -> Float[Tensor, "answers pairs"]:
    """Log-probabilities of the answers per token, pair by pair, in nats, on the CPU."""
    max_length = backbone.language_model.config.max_position_embeddings
    found = []
    for pair in pairs:
        packed = batch.pack([batch.tokenize(backbone, pair, max_length=max_length)])
        packed = packed.to(backbone.device)
        embeds = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))
        logps = batch.answer_logps(backbone, packed, embeds) / packed.lengths
        found.append(logps.float().cpu())
    return torch.cat(found, dim=1) if found else torch.zeros(2, 0)


def _compare(
    adapter: Tensor, merged: Tensor, loaded: Tensor, *, what: str, where: Path
) -> dict[str, float]:
    if not adapter.numel():
        return {}
    exact = float((adapter - merged).abs().max())
    rounded = float((adapter - loaded).abs().max())
    if not exact <= _BY_MERGING or not rounded <= _BY_ROUNDING:
        raise BadInput(
            f"{where}: merged weights do not say what the adapter says: log-probabilities "
            f"differ by {exact:.2e} nats per token in memory, {rounded:.2e} from the {what}; "
            "try merged_dtype: float32"
        )
    return {
        "adapter to merge in memory, nats per token": exact,
        f"adapter to {what}, nats per token": rounded,
    }


def _roomy(device: str, parts: Iterable[Path]) -> str:
    """The wanted device where the float32 weights fit it, else the CPU."""
    if device == "cpu" or not torch.cuda.is_available():
        return device
    files = [f for part in parts for f in ([part] if part.is_file() else part.rglob("*"))]
    need = 2.5 * sum(f.stat().st_size for f in files if f.is_file())  # published in 16 bits
    return device if need < torch.cuda.mem_get_info()[0] else "cpu"
