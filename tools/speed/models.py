"""Models with random weights at the sizes that matter, and pairs of token ids to run them on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hadpo import adapter
from hadpo.backbones import llava, minigpt4
from hadpo.batch import Example
from hadpo.plugins import choices
from hadpo.records import BadInput
from hadpo.vlm import decoder, vision
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.checkpoint import LlamaFolder
from hadpo.vlm.prompt import IMAGE, LlamaTokenizer

_SPREAD = 0.02  # standard deviation of the weights, as LLaMA was initialised


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a model and of the pairs it is measured on."""

    name: str
    family: Literal["llava", "minigpt4"]
    width: int  # of the language model
    mlp_width: int
    depth: int
    heads: int
    vocab: int
    vision: Mapping[str, int]  # CLIP's config, or EVA's sizes
    text_tokens: int  # of the prompt, beside the image tokens
    question_tokens: int = 12  # of these, behind the image; they differ between pairs of one image
    pairs: int = 1  # in a step
    rank: int  # of the LoRA on q, k and v
    description_tokens: int = 100  # of each answer
    pope_tokens: int = 12

    @property
    def answers(self) -> dict[str, int]:
        """Tokens of each answer, by kind of pair."""
        return {"desc": self.description_tokens, "pope": self.pope_tokens}

    @property
    def is_mini(self) -> bool:
        """Whether it is too small for its times to mean anything."""
        return self.name.startswith("tiny")

    @property
    def image_tokens(self) -> int:
        """Positions that an image takes in a row."""
        patches = (self.vision["image_size"] // self.vision["patch_size"]) ** 2
        return patches if self.family == "llava" else patches // 4


_CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
# One pass of these encoders costs a few per cent of a row, as CLIP-L beside a 7B language model.
_CLIP_SMALL = _CLIP_L | {
    "hidden_size": 48,
    "intermediate_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
}
_LLAMA_7B = {"width": 4096, "mlp_width": 11008, "depth": 32, "heads": 32, "vocab": 32000}
_TINY = {"width": 64, "mlp_width": 96, "depth": 3, "heads": 4, "vocab": 120}
GEOMETRIES = {
    g.name: g
    for g in (
        # The MLP is fat, so that attention is a tenth of a layer and not half of it, and the
        # vocabulary small, so that the output layer has the share of the work it has in a 7B.
        Geometry(
            name="toy",
            family="llava",
            width=256,
            mlp_width=4096,
            depth=2,
            heads=8,
            vocab=400,
            vision=_CLIP_SMALL,
            text_tokens=40,
            rank=16,
        ),
        Geometry(  # for peak memory: more layers, the usual MLP, a larger vocabulary
            name="toy-memory",
            family="llava",
            width=256,
            mlp_width=1376,
            depth=4,
            heads=8,
            vocab=8000,
            vision=_CLIP_SMALL,
            text_tokens=40,
            rank=16,
        ),
        Geometry(  # for equality in float64, and for tests
            name="tiny",
            family="llava",
            **_TINY,
            rank=4,
            vision=_CLIP_SMALL | {"image_size": 56},
            text_tokens=20,
            description_tokens=9,
            pope_tokens=3,
        ),
        Geometry(
            name="tiny-minigpt4",
            family="minigpt4",
            **_TINY,
            rank=4,
            vision={"image_size": 56, "patch_size": 14, "width": 32, "depth": 2, "heads": 2}
            | {"mlp_width": 48},
            text_tokens=16,
            description_tokens=9,
            pope_tokens=3,
        ),
        Geometry(
            name="llava-7b",
            family="llava",
            **_LLAMA_7B,
            vision=_CLIP_L,
            text_tokens=40,
            rank=128,
            pairs=4,
        ),
        Geometry(
            name="minigpt4-7b",
            family="minigpt4",
            **_LLAMA_7B,
            vision=vars(vision.EvaSizes()),
            text_tokens=16,
            rank=64,
            pairs=8,  # fewer would be bound by reading the weights
        ),
    )
}


def build(
    geometry: Geometry, *, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> Backbone:
    """A frozen backbone with random weights and an attached adapter whose B is not zero."""
    config = {
        "vocab_size": geometry.vocab,
        "hidden_size": geometry.width,
        "intermediate_size": geometry.mlp_width,
        "num_hidden_layers": geometry.depth,
        "num_attention_heads": geometry.heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "mm_vision_select_layer": -2,
    }
    backbone: Backbone
    if geometry.family == "llava":
        backbone = llava.Llava(
            "llava/mini", vision_config=geometry.vision, original_config=config, where=geometry.name
        )
    else:
        unread = LlamaTokenizer.__new__(LlamaTokenizer)  # the pairs are token ids already
        model = decoder.build_llama(config, where=geometry.name)
        folder = LlamaFolder(path=Path(), config=config, tokenizer=unread, model=model)
        sizes = vision.EvaSizes(**geometry.vision)
        backbone = minigpt4.MiniGPT4("minigpt4/llama2", folder, eva=sizes, qformer=None)
    fill(backbone, dtype=dtype, device=device, seed=seed)
    backbone = backbone.to(device).eval()
    names = "q_proj,k_proj,v_proj"
    adapter.attach(backbone, rank=geometry.rank, alpha=2.0 * geometry.rank, targets=names)
    generator = torch.Generator(device).manual_seed(seed + 1)
    for key, value in adapter.state(backbone).items():
        if ".lora_B." in key:
            value.normal_(std=_SPREAD, generator=generator)
    return backbone


def fill(backbone: Backbone, *, dtype: torch.dtype, device: torch.device, seed: int) -> None:
    """Random weights in place of those on the meta device; what is no matrix stays near one."""
    generator = torch.Generator(device).manual_seed(seed)
    values = {}
    for name, parameter in backbone.named_parameters():
        value = torch.empty(parameter.shape, dtype=dtype, device=device)
        mean = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
        values[name] = value.normal_(mean=mean, std=_SPREAD, generator=generator)
    backbone.load_state_dict(values, strict=False, assign=True)
    backbone.requires_grad_(False)


def pairs(
    geometry: Geometry,
    kind: str,
    count: int,
    *,
    images: int = 1,
    seed: int = 0,
    is_ragged: bool = False,
) -> list[Example]:
    """Pairs as token ids; the prompts differ in the question behind the image.

    Args:
        geometry: sizes.
        kind: "desc" or "pope".
        count: of the pairs.
        images: that they show in turn.
        seed: of the ids.
        is_ragged: answers of unequal lengths; else both have the same, which is the best case for
            whoever pads.
    """
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, geometry.vocab - 1, (length,), generator=generator).tolist())

    start = ids(geometry.text_tokens - geometry.question_tokens)
    length = geometry.answers[kind]
    return [
        Example(
            pair_id=f"{kind}-{k}",
            kind="pope" if kind == "pope" else "description",
            image=f"image-{k % images}",
            instruction="",
            prefix=(*start, *[IMAGE] * geometry.image_tokens, *ids(geometry.question_tokens)),
            chosen=ids(length - (k % 3 if is_ragged else 0)),
            rejected=ids(length - ((k + 1) % 3 if is_ragged else 0)),
            cut=0,
        )
        for k in range(count)
    ]


def draw_pixels(
    geometry: Geometry, count: int, *, dtype: torch.dtype, seed: int = 0
) -> Float[Tensor, "images 3 side side"]:
    """Pixels of `count` images, on the CPU."""
    side = geometry.vision["image_size"]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator).to(dtype)


def find(name: str) -> Geometry:
    """The geometry of that name; BadInput with the choices where there is none."""
    if name not in GEOMETRIES:
        raise BadInput(f"no geometry {name!r}; {choices(name, GEOMETRIES)}")
    return GEOMETRIES[name]
