"""The twins' vision towers, made from the mini LLaVA's CLIP.

mPLUG-Owl's encoder computes what CLIP's computes, so the weights are only laid out anew. EVA has no
norm before its first block and another activation: CLIP's weights are where its training starts.
"""

from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d

from hadpo import config
from hadpo.vlm import vision
from tools.train_mini.twins import EVA
from tools.train_mini.vision import fit, normalise

CLIP_FILE = config.PACKAGE / "mini" / "weights" / "llava" / "clip-vit-mini" / "model.safetensors"
_EVA_NAMES = {  # CLIP's -> EVA's as transformers calls them, within a layer
    "layer_norm1": "layer_norm1",
    "layer_norm2": "layer_norm2",
    "self_attn.out_proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_OWL_NAMES = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "out",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}


def train_eva(
    images: Tensor, labels: Tensor, *, steps: int, batch_size: int, learning_rate: float, seed: int
) -> vision.EvaTower:
    """EVA, from CLIP's weights, on the same labelled patches.

    Args:
        images: bytes: scenes, 3, height, width.
        labels: scenes, heads, patches.
        steps: updates.
        batch_size: pictures of an update.
        learning_rate: the largest.
        seed: of heads, batches and noise.
    """
    torch.manual_seed(seed)
    tower = vision.EvaTower(EVA)
    tower.load_state_dict(eva_start(normalise(images[:200])), assign=True)
    tower.requires_grad_(True)
    tower.ln_vision.requires_grad_(False)  # MiniGPT-4 with Llama-2 leaves it at its start

    def states(pixels: Tensor) -> list[tuple[Tensor, float]]:
        return [(tower.ln_vision(tower(pixels)), 1.0)]

    fit(tower, states, images, labels, steps=steps, batch_size=batch_size, rate=learning_rate)
    return tower.eval()


def owl_vision() -> dict[str, Tensor]:
    """mPLUG-Owl's encoder: CLIP up to the layer LLaVA reads, and a norm that only normalises."""
    clip = _clip()
    width = EVA.width
    state = {
        "cls_token": clip["embeddings.class_embedding"].view(1, 1, width),
        "positions": clip["embeddings.position_embedding.weight"][None],
        "patches.weight": clip["embeddings.patch_embedding.weight"],
        "pre_norm.weight": clip["pre_layrnorm.weight"],
        "pre_norm.bias": clip["pre_layrnorm.bias"],
        "post_norm.weight": torch.ones(width),
        "post_norm.bias": torch.zeros(width),
    }
    for layer in range(EVA.depth):
        state |= _renamed(clip, layer, _OWL_NAMES, f"layers.{layer}")
        for end in ("weight", "bias"):
            parts = torch.stack(_query_key_value(clip, layer, end))
            by_head = parts.unflatten(1, (EVA.heads, -1)).transpose(0, 1)  # heads, 3, size, ...
            state[f"layers.{layer}.query_key_value.{end}"] = by_head.flatten(0, 2).clone()
    return state


def _clip() -> dict[str, Tensor]:
    weights = load_file(CLIP_FILE)
    return {key.removeprefix("vision_model."): value.float() for key, value in weights.items()}


def eva_start(pixels: Tensor) -> dict[str, Tensor]:
    """EVA's weights so that its first block sees about what CLIP's sees behind its first norm.

    That norm is linear but for the division by each patch's own spread, for which a common one
    stands in; the key's bias changes no attention.
    """
    clip = _clip()
    scale, shift = clip["pre_layrnorm.weight"], clip["pre_layrnorm.bias"]
    patches = clip["embeddings.patch_embedding.weight"]
    positions = clip["embeddings.position_embedding.weight"]
    cls = clip["embeddings.class_embedding"]
    seen = conv2d(pixels, patches, stride=EVA.patch_size).flatten(2).transpose(1, 2)
    spread = (seen + positions[1:]).std(-1).mean()

    def normed(value: Tensor) -> Tensor:
        centred = value - value.mean(0)
        return centred * (scale / spread).view(-1, *[1] * (value.ndim - 1))

    state = {
        "embeddings.class_embedding": normed(cls).view(1, 1, -1),
        "embeddings.patch_embedding.weight": normed(patches),
        "embeddings.patch_embedding.bias": torch.zeros_like(cls),
        "embeddings.position_embedding": (normed(positions.T).T + shift)[None],
        "ln_vision.weight": torch.ones_like(cls),
        "ln_vision.bias": torch.zeros_like(cls),
    }
    for layer in range(EVA.depth):
        start = f"encoder.layers.{layer}"
        state |= _renamed(clip, layer, _EVA_NAMES, start)
        state[f"{start}.self_attn.qkv.weight"] = torch.cat(_query_key_value(clip, layer, "weight"))
        query, key, value = _query_key_value(clip, layer, "bias")
        bias = torch.cat([query, torch.zeros_like(key), value])
        state[f"{start}.self_attn.qkv.bias"] = bias
    return state


def _renamed(
    clip: Mapping[str, Tensor], layer: int, names: Mapping[str, str], start: str
) -> dict[str, Tensor]:
    return {
        f"{start}.{new}.{end}": clip[f"encoder.layers.{layer}.{old}.{end}"]
        for old, new in names.items()
        for end in ("weight", "bias")
    }


def _query_key_value(clip: Mapping[str, Tensor], layer: int, end: str) -> list[Tensor]:
    return [clip[f"encoder.layers.{layer}.self_attn.{name}_proj.{end}"] for name in "qkv"]
