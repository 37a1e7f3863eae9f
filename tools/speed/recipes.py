"""`python -m tools.speed recipes`: what every recipe's step keeps, counted, beside the estimate.

4-bit bases are counted as their 16-bit twin; the bytes of the weights come from the formula.
Recipes of hf are counted on transformers' own class, whose decoder reads hadpo's packed rows; its
tower, which runs before and without a gradient, is left out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import typer

from hadpo import batch, config, cost
from hadpo.doctor.machine import published_sizes
from hadpo.records import BadInput
from hadpo.trainer import objective
from tools.speed import count, counting, models, results
from tools.speed.models import Geometry

_PROMPT, _ANSWER = 40, 100  # as `cost.training_memory` has them
_CLASSES = {  # of hf: start of a recipe's name -> transformers' model type, width of a head
    "gemma3": ("gemma3", 256),
    "internvl3": ("internvl", 128),
    "qwen2.5-vl": ("qwen2_5_vl", 128),
    "qwen3-vl": ("qwen3_vl", 128),
    "smolvlm2": ("smolvlm", 64),
}
_NUMBERS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def command(json_file: results.JsonFile = None) -> None:
    """Bytes that a training step keeps, for every full-size recipe: counted, and estimated.

    Example: python -m tools.speed recipes
    """
    rows = [compare(name) for name in names()]
    typer.echo("| recipe | activations GB, estimated | counted | ratio | all | counted | ratio |")
    typer.echo("|---|---|---|---|---|---|---|")
    for row in rows:
        pairs = [(row[f"{k}_estimated"], row[f"{k}_counted"]) for k in ("activations", "total")]
        cells = [f"{a / 1e9:.2f} | {b / 1e9:.2f} | {a / b:.3f}" for a, b in pairs]
        typer.echo(f"| {row['recipe']} | {' | '.join(cells)} |")
    results.save_json(rows, json_file)


def names() -> list[str]:
    """The recipes that train a model of published size; one of `hf` for any model has none."""
    found = []
    for name in config.recipe_names():
        recipe = config.load_recipe(name)
        model = recipe.model
        if model is None or "HADPO_MODELS" not in str(model.files) or "train" not in recipe.stages:
            continue
        if model.sizes or not model.backbone.startswith("hf/"):
            found.append(name)
    return found


def compare(name: str) -> dict[str, Any]:
    """Estimated and counted bytes of a recipe's training step: activations, and all at the peak."""
    recipe = config.load_recipe(name)
    assert recipe.model is not None
    sizes, train, dtype = published_sizes(recipe.model), recipe.train, recipe.model.dtype
    estimate = cost.training_memory(sizes, train, dtype=dtype)
    geometry = geometry_of(recipe)
    low, high = (
        _count(dataclasses.replace(geometry, depth=depth), recipe) for depth in count.DEPTHS
    )
    up = (geometry.depth - count.DEPTHS[0]) / (count.DEPTHS[1] - count.DEPTHS[0])
    peak, trained = (a + up * (b - a) for a, b in zip(low, high, strict=True))
    per_weight = 4 + 4 + (2 if train.optimizer == "adamw_8bit" else 8)
    return {
        "recipe": name,
        "activations_estimated": estimate.activations + estimate.logits,
        "activations_counted": peak - _copies(trained, train, dtype),
        "total_estimated": estimate.total,
        "total_counted": estimate.weights + trained * per_weight + peak,
    }


def geometry_of(recipe: config.Recipe) -> Geometry:
    """What is counted of a recipe: its model, and rows as `cost.usual_rows` has them.

    Raises:
        BadInput: no class of transformers is known for a recipe of `hf`.
    """
    assert recipe.model is not None
    sizes = published_sizes(recipe.model)
    family, _, variant = recipe.model.backbone.partition("/")
    kind, head = next((v for k, v in _CLASSES.items() if recipe.name.startswith(k)), ("", 128))
    if family == "hf" and not kind:
        raise BadInput(f"recipes: which class {recipe.name} has is not known; add it to _CLASSES")
    tower = {
        "llava": models.COUNTED["llava-7b"],
        "instructblip": models.COUNTED["instructblip-13b"],
        "mplug_owl": models.FINETUNED_7B[1],
        "minigpt4": models.FINETUNED_7B[0],
        "hf": models.hub_class(kind, sizes.image_tokens),
    }[family]
    has_queries = family != "minigpt4" or "llama2" not in variant
    train = recipe.train
    return dataclasses.replace(
        tower,
        width=sizes.width,
        mlp_width=sizes.inner,
        depth=sizes.layers,
        heads=(sizes.query_width or sizes.width) // head,
        few_heads=(sizes.key_width or sizes.width) // head,
        head_width=head,
        is_tied=bool(sizes.is_tied),
        vocab=sizes.vocab,
        rank=train.lora_rank if "adapter" in train.trained else 0,
        targets=train.lora_targets,
        queries=tower.queries if has_queries else 0,
        tokens_before=0,
        question_tokens=_PROMPT,
        tokens_behind=0,
        answers={"desc": _ANSWER, "instruction": _ANSWER},
    )


def _copies(trained: float, train: config.TrainConfig, dtype: str) -> float:
    """Bytes of the adapter's copies in the base's numbers."""
    size = _NUMBERS[dtype].itemsize
    return trained * size * ("adapter" in train.trained and size < 4)


def _count(geometry: Geometry, recipe: config.Recipe) -> tuple[float, float]:
    """Live bytes of a step at its peak, beside the weights and their gradients; weights that learn.

    Gradients are dropped as they come: those of the micro-batch before are there all the time, so
    they count apart.
    """
    assert recipe.model is not None
    train = recipe.train
    backbone = models.on_meta(geometry, dtype=_NUMBERS[recipe.model.dtype])
    pairs, in_a_row = train.micro_batch_pairs, train.pairs_per_row
    images = max(1, pairs // in_a_row)
    kind = "desc" if train.objective == "dpo" else "instruction"
    examples = models.pairs(geometry, kind, pairs, images=images)
    side = geometry.image_size
    sides = objective.SIDES[train.objective]
    with counting.Count():
        packed = batch.pack_rows(batch.grouped(examples, in_a_row), sides=sides)
        packed = packed.to(counting.META)
    micro = objective.MicroBatch(
        packed=packed,
        pixels=torch.empty(images, 3, side, side, dtype=backbone.dtype, device="meta"),
        objective=train.objective,
        reference=None,
        example_weights=torch.ones(pairs),
    )
    backbone.recompute_activations(train.activation_checkpointing)
    learning = [p for p in backbone.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    counted = counting.Count()
    counted.known(backbone)
    policy = objective.Policy(backbone)
    with counted:
        losses, _ = objective.score(policy, backbone, micro, train, is_training=True)
        losses.mean().backward()
    return counted.peak, sum(p.numel() for p in learning)
