"""EVA ViT-g, the image encoder of MiniGPT-4 and InstructBLIP, from transformers' BLIP-2.

Source of keys and sizes: LAVIS and MiniGPT-4, eva_vit.py. The norm behind it (ln_vision) is not
part of EVA's file; the originals keep it at PyTorch's epsilon 1e-5, transformers does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from hadpo.backbones import _checkpoint
from hadpo.backbones._pixels import Preprocessing

_BLOCK_EPS = 1e-6  # eva_vit.py: partial(nn.LayerNorm, eps=1e-6)
_LN_VISION_EPS = 1e-5  # blip2.py: a plain nn.LayerNorm

KEYS = {  # eva_vit_g.pth -> ours
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.{}": "embeddings.patch_embedding.{}",
    "blocks.{}.norm1.weight": "encoder.layers.{}.layer_norm1.weight",
    "blocks.{}.norm1.bias": "encoder.layers.{}.layer_norm1.bias",
    "blocks.{}.norm2.weight": "encoder.layers.{}.layer_norm2.weight",
    "blocks.{}.norm2.bias": "encoder.layers.{}.layer_norm2.bias",
    "blocks.{}.attn.qkv.weight": "encoder.layers.{}.self_attn.qkv.weight",
    "blocks.{}.attn.q_bias": "encoder.layers.{}.self_attn.q_bias",
    "blocks.{}.attn.v_bias": "encoder.layers.{}.self_attn.v_bias",
    "blocks.{}.attn.proj.weight": "encoder.layers.{}.self_attn.projection.weight",
    "blocks.{}.attn.proj.bias": "encoder.layers.{}.self_attn.projection.bias",
    "blocks.{}.mlp.fc1.weight": "encoder.layers.{}.mlp.fc1.weight",
    "blocks.{}.mlp.fc1.bias": "encoder.layers.{}.mlp.fc1.bias",
    "blocks.{}.mlp.fc2.weight": "encoder.layers.{}.mlp.fc2.weight",
    "blocks.{}.mlp.fc2.bias": "encoder.layers.{}.mlp.fc2.bias",
}
_IGNORED = {
    "norm.{}": "EVA's own last norm, which the originals never build",
    "fc_norm.{}": "EVA's own last norm, which the originals never build",
    "head.{}": "EVA's classifier",
    "mask_token": "of EVA's pretraining",
}
_MOST_BLOCKS = 64  # of any EVA file


@dataclass(frozen=True, kw_only=True)
class EvaSizes:
    """Sizes of EVA ViT-g as LAVIS and MiniGPT-4 build it."""

    image_size: int = 224  # pixels of a side
    patch_size: int = 14  # pixels of a side
    width: int = 1408
    depth: int = 39  # the file has 40 blocks; the originals leave the last one out
    heads: int = 16
    mlp_width: int = 6144  # int(1408 * 4.3637)


class EvaTower(nn.Module):
    """An empty encoder and the norm behind it, on the meta device."""

    def __init__(self, sizes: EvaSizes) -> None:
        super().__init__()
        config: Any = Blip2VisionConfig(
            hidden_size=sizes.width,
            intermediate_size=sizes.mlp_width,
            num_hidden_layers=sizes.depth,
            num_attention_heads=sizes.heads,
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            hidden_act="gelu",
            layer_norm_eps=_BLOCK_EPS,
            qkv_bias=True,
        )
        config._attn_implementation = "sdpa"
        with init_empty_weights(include_buffers=False):
            model = Blip2VisionModel(config)
            self.ln_vision = nn.LayerNorm(sizes.width, eps=_LN_VISION_EPS)
        self.embeddings: Any = model.embeddings
        self.encoder: Any = model.encoder
        self.sizes = sizes
        self.num_patches = (sizes.image_size // sizes.patch_size) ** 2

    def forward(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images positions features"]:
        """States of the last block before `ln_vision`, the CLS token first."""
        return self.encoder(inputs_embeds=self.embeddings(pixels)).last_hidden_state

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 side side"]:
        """Squeeze to a square, whatever the shape (blip_processors.py: BlipImageEvalProcessor)."""
        return Preprocessing(image_size=self.sizes.image_size, squash=True)(image)

    def reset_norm(self, *, dtype: torch.dtype, device: torch.device) -> None:
        """`ln_vision` as PyTorch starts it: it normalises, and neither scales nor shifts."""
        width = self.sizes.width
        self.ln_vision.weight = _frozen(torch.ones(width, dtype=dtype, device=device))
        self.ln_vision.bias = _frozen(torch.zeros(width, dtype=dtype, device=device))


def fill(tower: EvaTower, path: Path, *, dtype: torch.dtype, device: torch.device) -> None:
    """Fill all but `ln_vision` from eva_vit_g.pth.

    A position table of another grid is interpolated (bicubic), as LAVIS does it.

    Raises:
        BadInput: keys or shapes that do not fit.
    """
    files = _checkpoint.weight_files(path, what="vision")
    expected = tower.embeddings.position_embedding.shape
    table = next((v for k, v in _checkpoint.read_tensors(files[0]) if k == "pos_embed"), None)
    for layer in tower.encoder.layers:
        _split_biases(layer.self_attn)
    encoder = nn.ModuleDict({"embeddings": tower.embeddings, "encoder": tower.encoder})
    if table is not None and _is_square(table, tower.sizes.width):
        tower.embeddings.position_embedding = nn.Parameter(table.to("meta").float())
    _checkpoint.fill(encoder, files, keys=KEYS, ignored=ignored(tower), dtype=dtype, device=device)
    if table is not None and table.shape != expected:
        resized = resize_positions(table.float(), expected[1] - 1)
        tower.embeddings.position_embedding = _frozen(resized.to(device=device, dtype=dtype))
    for layer in tower.encoder.layers:
        _join_biases(layer.self_attn)


def save(tower: EvaTower, path: Path, *, dtype: torch.dtype) -> None:
    """Write all but `ln_vision` as eva_vit_g.pth holds it."""
    weights = {}
    for name, value in tower.state_dict().items():
        if name.startswith("ln_vision."):
            continue
        if name.endswith("self_attn.qkv.bias"):
            query, _, end = value.chunk(3)
            parts = {name.replace("qkv.bias", "q_bias"): query}
            parts[name.replace("qkv.bias", "v_bias")] = end
        else:
            parts = {name: value}
        for ours, part in parts.items():
            names = (_checkpoint.translate_back(ours, k, t) for k, t in KEYS.items())
            weights[next(filter(None, names))] = part.detach().to("cpu", dtype).clone()
    torch.save(weights, path)


def ignored(tower: EvaTower) -> dict[str, str]:
    """Keys of an EVA file that the tower does not need -> why."""
    reason = "a block that the originals leave out"
    beyond = range(tower.sizes.depth, _MOST_BLOCKS)
    return {f"blocks.{block}.{{}}": reason for block in beyond} | _IGNORED


def resize_positions(
    table: Float[Tensor, "1 positions width"], patches: int
) -> Float[Tensor, "1 resized width"]:
    """A position table for another number of patches; the CLS token's row stays as it is."""
    side, wanted = round((table.shape[1] - 1) ** 0.5), round(patches**0.5)
    grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(
        grid, size=(wanted, wanted), mode="bicubic", align_corners=False
    )
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _is_square(table: Tensor, width: int) -> bool:
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != width or table.shape[1] < 2:
        return False
    return round((table.shape[1] - 1) ** 0.5) ** 2 == table.shape[1] - 1


def _split_biases(attention: Any) -> None:
    """EVA's file has biases for query and value only; transformers keeps one of three parts."""
    width = attention.qkv.in_features
    attention.qkv.bias = None
    attention.q_bias = nn.Parameter(torch.empty(width, device="meta"))
    attention.v_bias = nn.Parameter(torch.empty(width, device="meta"))


def _join_biases(attention: Any) -> None:
    query, value = attention.q_bias, attention.v_bias
    attention.qkv.bias = _frozen(torch.cat([query, torch.zeros_like(query), value]))
    del attention.q_bias, attention.v_bias


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
