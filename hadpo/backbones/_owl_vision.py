"""mPLUG-Owl's image encoder: a ViT in which one matrix per layer gives queries, keys and values.

Source: X-PLUG/mPLUG-Owl, mplug_owl/modeling_mplug_owl.py (MplugOwlVisionModel).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NEEDED = (  # what `vision_config` must say
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size", "layer_norm_eps"),
)
_LAYER = {  # authors' name -> ours, within a layer
    "input_layernorm": "norm1",
    "self_attn.query_key_value": "query_key_value",
    "self_attn.dense": "out",
    "post_attention_layernorm": "norm2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
KEYS = {  # authors' keys, without `vision_model.` -> ours
    f"encoder.layers.{{}}.{old}.{end}": f"layers.{{}}.{new}.{end}"
    for old, new in _LAYER.items()
    for end in ("weight", "bias")
} | {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embedding": "positions",
    "embeddings.patch_embed.weight": "patches.weight",
    "embeddings.pre_layernorm.{}": "pre_norm.{}",
    "post_layernorm.{}": "post_norm.{}",
}


def quick_gelu(values: Tensor) -> Tensor:
    """The activation of the tower, x * sigmoid(1.702 x), whatever `hidden_act` says."""
    return values * torch.sigmoid(1.702 * values)


class OwlVision(nn.Module):
    """An empty encoder on the meta device.

    Args:
        config: `vision_config` of the checkpoint; it has all of `NEEDED`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        patch = config["patch_size"]
        self.width = width
        self.image_size = config["image_size"]  # pixels of a side
        self.num_patches = (self.image_size // patch) ** 2
        with torch.device("meta"):
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            self.positions = nn.Parameter(torch.empty(1, self.num_patches + 1, width))
            self.patches = nn.Conv2d(3, width, patch, stride=patch, bias=False)
            self.pre_norm = nn.LayerNorm(width, eps=eps)
            self.layers = nn.ModuleList(
                _Layer(width, config["intermediate_size"], config["num_attention_heads"], eps)
                for _ in range(config["num_hidden_layers"])
            )
            self.post_norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self, pixels: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images positions features"]:
        """Normed states of all positions; the CLS token is first and stays."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        states = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        states = self.pre_norm(states + self.positions)
        for layer in self.layers:
            states = layer(states)
        return self.post_norm(states)


class _Layer(nn.Module):
    def __init__(self, width: int, mlp_width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, states: Float[Tensor, "images positions width"]) -> Tensor:
        # The rows of the matrix are laid out as [heads, 3, size]: q, k, v of one head together.
        fused = self.query_key_value(self.norm1(states)).unflatten(-1, (self.heads, 3, -1))
        query, key, value = fused.permute(3, 0, 2, 1, 4)  # each: images, heads, positions, size
        seen = F.scaled_dot_product_attention(query, key, value)
        states = states + self.out(seen.transpose(1, 2).flatten(2))
        return states + self.fc2(quick_gelu(self.fc1(self.norm2(states))))
