"""How many products a pair costs: what measured times are compared with.

Counts as in the field: two operations per multiply-add; frozen weights cost one forward and one
product in backward, attention two and a half times its forward there.
"""

from __future__ import annotations

from tools.speed import steps
from tools.speed.models import Geometry

_LORA_SHARE = 3 * 2  # a forward and two products in backward, of the two small matrices


def forward_flops(geometry: Geometry, tokens: float, attended: float) -> float:
    """The language model without its output layer.

    Args:
        geometry: sizes.
        tokens: positions that are read.
        attended: pairs of positions of which one sees the other.
    """
    width, depth = geometry.width, geometry.depth
    linear = 2 * (4 * width**2 + 3 * width * geometry.mlp_width) * depth
    return linear * tokens + 4 * width * depth * attended


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
    prefix = geometry.image_tokens + geometry.text_tokens
    rest = geometry.question_tokens
    common = prefix - rest
    k = pairs_per_row if step == steps.GROUPED else 1
    is_ours = step in (steps.OURS, steps.SEGMENTS, steps.CACHED, steps.GROUPED)
    if not is_ours:
        tokens: float = 2 * (prefix + answer)
        attended: float = 2 * _triangle(prefix + answer)
    else:
        branch = rest + answer
        tokens = (common + k * (rest + 2 * answer)) / k
        attended = _triangle(common) / k + common * (rest + 2 * answer)
        attended += _triangle(branch) + rest * answer + _triangle(answer)
    forward = forward_flops(geometry, tokens, attended)
    width, depth = geometry.width, geometry.depth
    linear = forward - 4 * width * depth * attended
    backward = linear + 2.5 * 4 * width * depth * attended
    adapter = _LORA_SHARE * 2 * 3 * width * geometry.rank * depth * tokens
    reads_reference = step != steps.CACHED
    head = 2 * width * geometry.vocab
    compact = (steps.TRL_COMPACTION, steps.FUSED_ROWS)
    scored = 2 * answer if is_ours or step in compact else tokens
    products = {steps.TRL: 4, steps.TRL_COMPACTION: 4}.get(step, 3)  # the reference's among them
    passes = {steps.GROUPED: 1 / k}.get(step, 1) if is_ours else 4
    vision = passes * vision_flops(geometry)
    total = forward * (1 + reads_reference) + backward + adapter + vision
    return total + head * scored * (products - (not reads_reference))


def _triangle(length: float) -> float:
    return length * (length + 1) / 2
