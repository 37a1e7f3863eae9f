"""How much memory a training needs, term by term, from sizes alone, and which GPU has it.

What a step keeps is `hadpo.memory`; here are the sizes of models whose files may not be there yet:
a LLaMA layer has 4 h^2 + 3 h I weights (the spec of this kit, section cost model).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo import backbones, config, memory
from hadpo.doctor.report import Check
from hadpo.records import BadInput

GPUS = {  # GB, capability
    "V100 16 GB": (16, (7, 0)),
    "V100 32 GB": (32, (7, 0)),
    "A100 40 GB": (40, (8, 0)),
    "A100 80 GB": (80, (8, 0)),
    "H200 141 GB": (141, (9, 0)),
}
# What the published models are, for a recipe whose files are not there yet.
_LLAMA = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40},
}
_OTHERS = {  # weights of encoder and connector in millions, image tokens
    "llava": (325, 576),
    "instructblip": (1175, 32),
    "minigpt4": (1010, 64),
    "mplug_owl": (450, 65),
}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PROMPT, _ANSWER = 40, 100  # tokens of a description's prompt, and of each of its answers
_CONTEXT = 1.0e9  # bytes that CUDA itself takes
_SLACK = 1.1  # the allocator's


@dataclass(frozen=True, kw_only=True)
class Sizes(memory.Language):
    """A model in numbers; `others` are the weights that are not the language model's."""

    others: float
    image_tokens: int
    source: str


def estimate(
    sizes: Sizes,
    train: config.TrainConfig,
    *,
    dtype: str,
    quantization: str = "none",
    positions: int | None = None,
) -> memory.Estimate:
    """What a step keeps at its peak.

    Args:
        sizes: of the model.
        train: rank, targets, rows at a time, recomputation, optimizer.
        dtype: of the frozen weights.
        quantization: of the language model's linear layers.
        positions: of a micro-batch; None: description pairs with answers of 100 tokens.
    """
    h, inner, n_bytes = sizes.width, sizes.inner, _BYTES[dtype]
    linear = sizes.layers * (4 * h * h + 3 * h * inner)
    rest = sizes.others + 2 * sizes.vocab * h + (2 * sizes.layers + 1) * h
    bits = backbones.BITS[quantization] if quantization != "none" else 8 * n_bytes
    ends = {"up_proj": h + inner, "gate_proj": h + inner, "down_proj": inner + h}
    targets = config.names(train.lora_targets)
    lora = sizes.layers * train.lora_rank * sum(ends.get(name, 2 * h) for name in targets)
    answer = max(1, min(_ANSWER, train.max_length - sizes.image_tokens - _PROMPT))
    scored = 2 * answer * train.micro_batch_pairs
    if positions is None:
        rows = math.ceil(train.micro_batch_pairs / train.pairs_per_row)
        positions = rows * (sizes.image_tokens + _PROMPT) + scored
    return memory.of_step(
        sizes,
        train,
        weights=linear * bits / 8 + rest * n_bytes,
        trained=lora,
        number_bytes=n_bytes,
        positions=positions,
        scored=scored,
    )


def sizes_of(model: config.ModelConfig) -> Sizes:
    """The model's sizes: from its config.json where that is there, else the published ones."""
    family, _, variant = model.backbone.partition("/")
    others, image_tokens = _OTHERS.get(family, (500, 256))
    if family == "minigpt4" and variant.startswith("vicuna0"):
        image_tokens = 32
    path = config.resolve_path(model.files.get("language_model", ""))
    found = _config(path)
    source = str(path / "config.json")
    if not found.keys() >= _LLAMA["7b"].keys():
        found, source = _LLAMA["13b" if "13b" in variant else "7b"], "published sizes"
    if variant.startswith("mini"):
        parts = [config.resolve_path(p) for k, p in model.files.items() if k != "language_model"]
        others, image_tokens = _stored(parts) / 2e6, 36
    return Sizes(
        width=found["hidden_size"],
        inner=found["intermediate_size"],
        layers=found["num_hidden_layers"],
        vocab=found.get("vocab_size", 32000),
        others=others * 1e6,
        image_tokens=image_tokens,
        source=source,
    )


def look(recipe: config.Recipe, capability: tuple[int, int] | None) -> Iterator[Check]:
    """The numbers that this machine would hold the model in, and what a training step needs."""
    model = recipe.model
    if model is None or "train" not in recipe.stages:
        return
    here = None if model.device == "cpu" else capability
    try:
        numbers = backbones.choose_precision(model.dtype, model.quantization, here)
    except BadInput as error:
        found, _, mend = str(error).rpartition("; ")
        yield Check(what="numbers", status="broken", found=found, mend=mend)
        return
    yield Check(what="numbers", status="ok", found=numbers.why)
    sizes = sizes_of(model)
    yield from _terms(sizes, recipe.train, numbers.dtype, numbers.quantization)
    fitting, refused = [], []
    for name, (gigabytes, its) in GPUS.items():
        try:
            there = backbones.choose_precision(model.dtype, model.quantization, its)
        except BadInput:
            refused.append(name)
            continue
        step = estimate(sizes, recipe.train, dtype=there.dtype, quantization=there.quantization)
        if step.total * _SLACK + _CONTEXT <= gigabytes * 1e9:
            fitting.append(f"{name} ({there.dtype})")
    found = "fits " + ", ".join(fitting) if fitting else "fits none of the GPUs listed here"
    if refused:
        found += f"; not on {', '.join(refused)}: {model.dtype}, {model.quantization}"
    mend = "" if fitting else "micro_batch_pairs=1, activation_checkpointing=true, quantization=nf4"
    yield Check(what="GPU", status="ok" if fitting else "warning", found=found, mend=mend)


def _terms(
    sizes: Sizes, train: config.TrainConfig, dtype: str, quantization: str
) -> Iterator[Check]:
    step = estimate(sizes, train, dtype=dtype, quantization=quantization)
    notes = {
        "weights": f"{dtype}, quantization {quantization}; {sizes.source}",
        "adapter": f"rank {train.lora_rank} on {train.lora_targets}, {train.optimizer}",
        "activations": f"{train.micro_batch_pairs} description pairs at a time"
        + ", recomputed" * train.activation_checkpointing,
        "logits": "a few tokens at a time",
        "total": "and about 10 % and 1 GB for CUDA and its allocator",
    }
    for term, note in notes.items():
        gigabytes = getattr(step, term) / 1e9
        yield Check(what=f"memory: {term}", status="ok", found=f"{gigabytes:.3f} GB; {note}")


def _config(folder: Path) -> Mapping[str, Any]:
    """The language model's section of a checkpoint's config.json; empty where there is none."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values.get("text_config", values) if isinstance(values, dict) else {}


def _stored(places: list[Path]) -> int:
    """Bytes of the files of weights in some folders."""
    files = [f for p in places for f in ([p] if p.is_file() else p.glob("*"))]
    return sum(f.stat().st_size for f in files if f.suffix in (".safetensors", ".bin", ".pth"))
