"""mPLUG-Owl's abstractor: learned queries look at themselves and the image, and become tokens.

Source: X-PLUG/mPLUG-Owl, mplug_owl/modeling_mplug_owl.py (MplugOwlVisualAbstractorModel).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NEEDED = (  # what `visual_abstractor_config` must say
    *("hidden_size", "intermediate_size", "encoder_hidden_size"),
    *("num_hidden_layers", "num_attention_heads", "layer_norm_eps"),
)
_LAYER = {  # authors' name within `crossattention` -> ours within a layer
    "norm1": "norm1",
    "normk": "norm_image",
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "output.out_proj": "out",
    "output.norm2": "norm2",
    "output.mlp.w1": "gate",
    "output.mlp.w3": "up",
    "output.mlp.ffn_ln": "norm_mlp",
    "output.mlp.w2": "down",
}
KEYS = {  # authors' keys -> ours
    f"abstractor.encoder.layers.{{}}.crossattention.{old}.{end}": f"layers.{{}}.{new}.{end}"
    for old, new in _LAYER.items()
    for end in ("weight", "bias")
} | {
    "query_tokens": "query_tokens",
    "abstractor.visual_fc.{}": "visual_fc.{}",
    "abstractor.vit_eos": "vit_eos",
}
# The authors pass their config's epsilon to one of the four norms of a layer only.
_EPS = 1e-5


class Abstractor(nn.Module):
    """An empty abstractor on the meta device.

    The authors' dropout on attention, 0.1 in training, is left out: the abstractor is frozen, and
    chosen, rejected, policy and reference see the same image tokens.

    Args:
        config: `visual_abstractor_config` of the checkpoint; it has all of `NEEDED`.
        num_queries: learned queries; one image gives one token more.
        width: of the language model.
    """

    def __init__(self, config: Mapping[str, Any], *, num_queries: int, width: int) -> None:
        super().__init__()
        inner = config["hidden_size"]
        with torch.device("meta"):
            self.query_tokens = nn.Parameter(torch.empty(1, num_queries, inner))
            self.layers = nn.ModuleList(_Layer(config) for _ in range(config["num_hidden_layers"]))
            self.visual_fc = nn.Linear(inner, width)
            self.vit_eos = nn.Parameter(torch.empty(1, 1, width))

    def forward(
        self, features: Float[Tensor, "images positions features"]
    ) -> Float[Tensor, "images tokens width"]:
        """One token per query, and the learned end of the image."""
        queries = self.query_tokens.expand(len(features), -1, -1)
        for layer in self.layers:
            queries = layer(queries, features)
        end = self.vit_eos.expand(len(features), -1, -1)
        return torch.cat([self.visual_fc(queries), end], dim=1)


class _Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        inner, mlp, seen = (
            config[key] for key in ("hidden_size", "intermediate_size", "encoder_hidden_size")
        )
        self.heads = config["num_attention_heads"]
        self.norm1 = nn.LayerNorm(inner, eps=_EPS)
        self.norm_image = nn.LayerNorm(seen, eps=_EPS)
        self.query = nn.Linear(inner, inner)
        self.key = nn.Linear(seen, inner)
        self.value = nn.Linear(seen, inner)
        self.out = nn.Linear(inner, inner)
        self.norm2 = nn.LayerNorm(inner, eps=_EPS)
        self.gate = nn.Linear(inner, mlp)
        self.up = nn.Linear(inner, mlp)
        self.norm_mlp = nn.LayerNorm(mlp, eps=config["layer_norm_eps"])
        self.down = nn.Linear(mlp, inner)

    def forward(
        self,
        queries: Float[Tensor, "images queries inner"],
        image: Float[Tensor, "images positions features"],
    ) -> Float[Tensor, "images queries inner"]:
        queries = self.norm1(queries)  # the residual stream restarts here, from the normed queries
        seen = torch.cat([queries, self.norm_image(image)], dim=1)
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.query(queries), self.key(seen), self.value(seen))
        )
        looked = F.scaled_dot_product_attention(query, key, value)
        queries = queries + self.out(looked.transpose(1, 2).flatten(2))
        normed = self.norm2(queries)
        return queries + self.down(self.norm_mlp(F.silu(self.gate(normed)) * self.up(normed)))
