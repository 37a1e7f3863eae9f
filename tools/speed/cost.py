"""How many operations a pair costs, by `hadpo.cost`: what measured times are compared with."""

from __future__ import annotations

from hadpo import cost
from tools.speed import steps
from tools.speed.models import Geometry

ROWS, ROWS_OF_AN_IMAGE, PACKED = "rows", "rows_of_an_image", "packed"  # ways to finetune


def encoder_flops(geometry: Geometry) -> float:
    """One pass of the image encoder and of the queries behind it, forward.

    LLaVA does not run the last layer of CLIP. A plain connector is left out.
    """
    width, positions = geometry.tower_width, geometry.patches + 1
    depth = geometry.tower_depth - (geometry.family == "llava")
    linear = 2 * (4 * width**2 + 2 * width * geometry.tower_mlp_width) * positions
    tower = depth * (linear + 4 * width * positions**2)
    is_owl, inner = geometry.family == "mplug_owl", geometry.query_width
    products = 3 if is_owl else 2  # mPLUG-Owl's MLP is gated
    query = 2 * geometry.queries * (4 * inner**2 + products * inner * geometry.query_mlp_width)
    looks = 4 * positions * inner * width * (1 if is_owl else 0.5)  # every second layer
    return tower + geometry.query_depth * (query + looks)


def pair_flops(geometry: Geometry, kind: str, step: str, *, pairs_per_row: int = 4) -> float:
    """Operations of one step of preference training per pair, by the algorithm of `step`.

    Args:
        geometry: sizes.
        kind: "desc" or "pope".
        step: a name of `steps`.
        pairs_per_row: of `steps.GROUPED`.
    """
    answer = geometry.answers[kind]
    common, rest = geometry.shared, geometry.rest
    price = _price(geometry, "q_proj,k_proj,v_proj")
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


def ideal(
    geometry: Geometry, kind: str, gpu: str, *, recomputes: bool, reads_reference: bool = True
) -> dict[str, float]:
    """The least that the mathematics needs for a pair: operations, bytes, and a GPU's seconds.

    Linear layers there and back over the shared row, exact causal looks, the output layer on answer
    tokens only, three products of the adapter, the image once. Norms, rotary and SwiGLU read and
    write once, in 16 bits; the weights are read once a pass.
    """
    price = _price(geometry, geometry.targets or "q_proj,k_proj,v_proj")
    answer = geometry.answers[kind]
    common = geometry.shared + geometry.rest
    row = cost.Row(common=common, rests=(0,), answers=((answer, answer),))
    operations = price.vision + price.train(
        row, recomputes=recomputes, reads_reference=reads_reference
    )
    passes = reads_reference + recomputes
    h, inner = geometry.width, geometry.mlp_width
    moved = row.positions * geometry.depth * 2 * (12 * h + 3 * inner) * (3 + passes)
    weights = price.linear * (2 + passes)  # bytes: two of a weight, which makes two operations
    kind_of = cost.GPUS[gpu]
    bound = operations / (kind_of.peaks.tflops * 1e12)
    traffic = (moved + weights) / (kind_of.peaks.gigabytes_a_second * 1e9)
    return {"operations": operations, "bytes": moved, "seconds": max(bound, traffic)}


def finetuning_flops(geometry: Geometry, pairs: int) -> dict[str, float]:
    """Operations of a finetuning step on the pairs of one image, in each way to pack them.

    The encoder runs forward only, the language model there and back; the few operations of a LoRA
    are left out.
    """
    answer = (geometry.answers["instruction"],)
    price = _price(geometry)

    def language(in_a_row: int) -> float:
        rests = (geometry.rest,) * in_a_row
        return price.train(
            cost.Row(common=geometry.shared, rests=rests, answers=(answer,) * in_a_row)
        )

    return {
        ROWS: pairs * (language(1) + price.vision),
        ROWS_OF_AN_IMAGE: pairs * language(1) + price.vision,
        PACKED: language(pairs) + price.vision,
        "encoder": price.vision,
    }


def _price(geometry: Geometry, lora_targets: str = "") -> cost.Operations:
    sizes = cost.ModelSizes(
        width=geometry.width,
        inner=geometry.mlp_width,
        layers=geometry.depth,
        vocab=geometry.vocab,
        others=0,
        image_tokens=geometry.image_tokens,
    )
    lora_weights = sizes.lora_weights(geometry.rank, lora_targets) if lora_targets else 0
    return cost.Operations.of(sizes, lora_weights=lora_weights, vision=encoder_flops(geometry))
