"""A LLaVA of random weights with the real one's sequence lengths, in its authors' layout."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hadpo import backbones, config
from hadpo.vlm.backbone import Backbone

_MINI = config.PACKAGE / "mini/weights/llava/llava-v1.5-mini"


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes. 336 pixels in patches of 14 give LLaVA's 576 image tokens.

    The language model's layers are fat (16 times their width), so that attention takes about the
    share of a layer's work that it takes in the 7B model, and a pass of the tower costs a few per
    cent of reading its image's prompt.
    """

    width: int = 256
    inner: int = 4096
    layers: int = 2
    heads: int = 4
    tower_width: int = 64
    tower_inner: int = 256
    tower_layers: int = 3
    image_size_pixels: int = 336


def load(folder: Path, geometry: Geometry, *, seed: int = 0) -> Backbone:
    """Write the files below `folder` and read them back as LLaVA, float32 on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    files = {"language_model": folder / "llava-random", "vision": folder / "clip-random"}
    for path in files.values():
        path.mkdir(parents=True, exist_ok=True)
    _write_model(files["language_model"], geometry, generator)
    _write_tower(files["vision"], geometry, generator)
    return backbones.load("llava/mini", files, dtype="float32", device="cpu")


def _write_model(folder: Path, sizes: Geometry, generator: torch.Generator) -> None:
    shutil.copy(_MINI / "tokenizer.model", folder)
    vocab = json.loads((_MINI / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    config = {
        "model_type": "llava",
        "vocab_size": vocab,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "mm_hidden_size": sizes.tower_width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = {"model.embed_tokens": (vocab, sizes.width), "lm_head": (vocab, sizes.width)}
    for place in range(sizes.layers):
        start = f"model.layers.{place}."
        shapes |= {f"{start}self_attn.{n}_proj": (sizes.width, sizes.width) for n in "qkvo"}
        shapes |= {f"{start}mlp.{n}_proj": (sizes.inner, sizes.width) for n in ("gate", "up")}
        shapes[f"{start}mlp.down_proj"] = (sizes.width, sizes.inner)
    shapes["model.mm_projector.0"] = (sizes.width, sizes.tower_width)
    shapes["model.mm_projector.2"] = (sizes.width, sizes.width)
    weights = {f"{name}.weight": _draw(shape, generator) for name, shape in shapes.items()}
    norms = ["model.norm"]
    for place in range(sizes.layers):
        norms += [f"model.layers.{place}.{n}" for n in ("input_layernorm", _AFTER_ATTENTION)]
    weights |= {f"{name}.weight": torch.ones(sizes.width) for name in norms}
    weights |= {f"model.mm_projector.{n}.bias": torch.zeros(sizes.width) for n in (0, 2)}
    # So that questions are heard beside 576 random image tokens, and answers differ.
    for name, weight in weights.items():
        if "embed_tokens" in name or "mm_projector.2" in name:
            weight *= 4
        elif "q_proj" in name or "k_proj" in name:
            weight *= 6
    save_file(weights, folder / "model.safetensors")


_AFTER_ATTENTION = "post_attention_layernorm"


def _write_tower(folder: Path, sizes: Geometry, generator: torch.Generator) -> None:
    vision = {
        "hidden_size": sizes.tower_width,
        "intermediate_size": sizes.tower_inner,
        "num_hidden_layers": sizes.tower_layers,
        "num_attention_heads": sizes.heads,
        "image_size": sizes.image_size_pixels,
        "patch_size": 14,
        "projection_dim": 8,
    }
    text = json.dumps({"model_type": "clip", "vision_config": vision})
    (folder / "config.json").write_text(text, encoding="utf-8")
    width, inner, start = sizes.tower_width, sizes.tower_inner, "vision_model."
    patches = (sizes.image_size_pixels // 14) ** 2
    weights = {
        f"{start}embeddings.class_embedding": _draw((width,), generator),
        f"{start}embeddings.patch_embedding.weight": _draw((width, 3, 14, 14), generator),
        f"{start}embeddings.position_embedding.weight": _draw((patches + 1, width), generator),
    }
    norms = [f"{start}pre_layrnorm", f"{start}post_layernorm"]
    for place in range(sizes.tower_layers):
        layer = f"{start}encoder.layers.{place}."
        norms += [f"{layer}layer_norm{n}" for n in (1, 2)]
        shapes = {f"self_attn.{n}": (width, width) for n in _TOWER_PROJECTIONS}
        shapes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for name, shape in shapes.items():
            weights[f"{layer}{name}.weight"] = _draw(shape, generator)
            weights[f"{layer}{name}.bias"] = torch.zeros(shape[0])
    for name in norms:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.ones(width), torch.zeros(width)
    save_file(weights, folder / "model.safetensors")


_TOWER_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    fan_in = 1
    for size in shape[1:]:
        fan_in *= size
    return torch.randn(shape, generator=generator) * fan_in**-0.5
