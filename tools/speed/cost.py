"""How many operations a pair costs, by `hadpo.cost`: what measured times are compared with."""

from __future__ import annotations

from hadpo import cost
from tools.speed import steps
from tools.speed.models import Geometry


def vision_flops(geometry: Geometry) -> float:
    """One pass of the image encoder, the part that all run; the connector is left out."""
    sizes = geometry.vision
    width = sizes.get("width") or sizes["hidden_size"]
    mlp = sizes.get("mlp_width") or sizes["intermediate_size"]
    depth = sizes.get("depth") or sizes["num_hidden_layers"] - 1
    positions = (sizes["image_size"] // sizes["patch_size"]) ** 2 + 1
    linear = 2 * (4 * width**2 + 2 * width * mlp) * positions
    return depth * (linear + 4 * width * positions**2)


def pair_flops(geometry: Geometry, kind: str, step: str, *, pairs_per_row: int = 4) -> float:
    """Operations of one training step per pair, by the algorithm of `step`.

    Args:
        geometry: sizes.
        kind: "desc" or "pope".
        step: a name of `steps`.
        pairs_per_row: of `steps.GROUPED`.
    """
    answer = geometry.answers[kind]
    rest = geometry.question_tokens
    common = geometry.image_tokens + geometry.text_tokens - rest
    sizes = cost.ModelSizes(
        width=geometry.width,
        inner=geometry.mlp_width,
        layers=geometry.depth,
        vocab=geometry.vocab,
        others=0,
        image_tokens=geometry.image_tokens,
    )
    price = cost.Operations.of(
        sizes,
        lora_weights=sizes.lora_weights(geometry.rank, "q_proj,k_proj,v_proj"),
        vision=vision_flops(geometry),
    )
    if step in (steps.OURS, steps.SEGMENTS, steps.CACHED, steps.GROUPED):
        k = pairs_per_row if step == steps.GROUPED else 1
        row = cost.Row(common=common, rests=(rest,) * k, answers=((answer, answer),) * k)
        return (price.train(row, reads_reference=step != steps.CACHED) + price.vision) / k
    row = cost.Row(common=common, rests=(rest,), answers=((answer,),))  # and one of the other
    is_compact = step in (steps.TRL_COMPACTION, steps.FUSED_ROWS)
    scored = answer if is_compact else row.positions
    products = 4 if step in (steps.TRL, steps.TRL_COMPACTION) else 3  # the reference's among them
    head = price.head * (products * scored - 3 * row.scored)  # beside what `train` counts
    return 2 * (price.train(row, reads_reference=True) + head) + 4 * price.vision
