"""Backbones of random weights as LRV-Instruction finetunes them, and question-answer pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hadpo import adapter
from hadpo.adapter import connector
from hadpo.backbones import minigpt4, mplug_owl
from hadpo.batch import Example
from hadpo.vlm import decoder, vision
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.checkpoint import LlamaFolder
from hadpo.vlm.prompt import IMAGE, LlamaTokenizer
from hadpo.vlm.qformer import QFormerSizes
from tools.speed import models

_SIDE, _PATCH = 224, 14  # pixels, of both encoders


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a model, and lengths of what it learns from.

    Lengths are those of LRV's data with LLaMA's tokenizer, about: a question has 11.4 words and an
    answer 12 (it may have 30), a word 1.3 tokens; what stands around them is the model's prompt.
    """

    name: str
    width: int  # of the language model
    mlp_width: int
    depth: int
    heads: int
    vocab: int
    tower_width: int
    tower_mlp_width: int
    tower_depth: int
    tower_heads: int
    queries: int  # of the Q-Former or the abstractor
    query_width: int
    query_mlp_width: int
    query_depth: int
    rank: int = 0  # of the LoRA on q and v; 0: the connector is trained instead
    tokens_before: int  # of the prompt, as far as all pairs of an image have it in common
    question_tokens: int = 15
    tokens_behind: int  # the question; of the prompt
    answer_tokens: int = 18  # with the end marker

    @property
    def image_tokens(self) -> int:
        """Positions that an image takes in a row: mPLUG-Owl has an end mark behind its queries."""
        return self.queries + bool(self.rank)

    @property
    def shared(self) -> int:
        """Positions that all pairs of an image have in common."""
        return self.tokens_before + self.image_tokens

    @property
    def own(self) -> int:
        """Positions of each pair behind those."""
        return self.question_tokens + self.tokens_behind + self.answer_tokens


_MINIGPT4 = {"queries": 32, "tokens_before": 12, "tokens_behind": 6}
_OWL = {"queries": 64, "rank": 8, "tokens_before": 43, "tokens_behind": 4}
_SMALL_QUERIES = {"query_width": 32, "query_mlp_width": 96, "query_depth": 2}
_LLAMA_7B = {"width": 4096, "mlp_width": 11008, "depth": 32, "heads": 32, "vocab": 32000}
# mPLUG-Owl's queries are as wide as its tower.
# The MLP is fat, so that attention has about the share of a layer's work that it has in a 7B; the
# tower's pass has the share beside reading a row that EVA and ViT-L have there.
_TOY = {"width": 256, "mlp_width": 8192, "depth": 2, "heads": 8, "vocab": 400} | _SMALL_QUERIES
_TINY = {"width": 32, "mlp_width": 48, "depth": 2, "heads": 4, "vocab": 120} | _SMALL_QUERIES
_TINY_TOWER = {"tower_width": 32, "tower_mlp_width": 32, "tower_depth": 2, "tower_heads": 2}


def _tower(width: int, mlp_width: int, depth: int, heads: int) -> dict[str, int]:
    names = ("tower_width", "tower_mlp_width", "tower_depth", "tower_heads")
    return dict(zip(names, (width, mlp_width, depth, heads), strict=True))


def _queries(width: int, mlp_width: int, depth: int) -> dict[str, int]:
    names = ("query_width", "query_mlp_width", "query_depth")
    return dict(zip(names, (width, mlp_width, depth), strict=True))


TINY = (  # for tests
    Geometry(name="minigpt4-tiny", **_MINIGPT4, **_TINY, **_TINY_TOWER),
    Geometry(name="mplug-owl-tiny", **_OWL, **_TINY, **_TINY_TOWER),
)
TOY = (
    Geometry(name="minigpt4-toy", **_MINIGPT4, **_TOY, **_tower(96, 2304, 4, 4)),
    Geometry(name="mplug-owl-toy", **_OWL, **_TOY, **_tower(32, 3072, 3, 4)),
)
REAL = (  # for counting products only
    Geometry(
        name="minigpt4-7b",
        **_MINIGPT4,
        **_LLAMA_7B,
        **_tower(1408, 6144, 39, 16),
        **_queries(768, 3072, 12),
    ),
    Geometry(
        name="mplug-owl-7b",
        **_OWL,
        **_LLAMA_7B,
        **_tower(1024, 4096, 24, 16),
        **_queries(1024, 2816, 6),
    ),
)


def build(sizes: Geometry, *, dtype: torch.dtype, seed: int = 0) -> Backbone:
    """On the CPU; what LRV trains is open: the projection of MiniGPT-4, mPLUG-Owl's LoRA."""
    device = torch.device("cpu")
    llama = {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp_width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
    }
    backbone = _mplug_owl(sizes, llama) if sizes.rank else _minigpt4(sizes, llama)
    models.fill(backbone, dtype=dtype, device=device, seed=seed)
    backbone = backbone.eval()
    if not sizes.rank:
        connector.open_connector(backbone)
        return backbone
    adapter.attach(backbone, rank=sizes.rank, alpha=4.0 * sizes.rank, targets="q_proj,v_proj")
    generator = torch.Generator().manual_seed(seed + 1)
    for key, value in adapter.state(backbone).items():
        if ".lora_B." in key:  # of zeros, A would have no gradient
            value.normal_(std=0.02, generator=generator)
    return backbone


def trained(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The weights with a gradient, by name."""
    return {name: p for name, p in backbone.named_parameters() if p.requires_grad}


def examples(
    sizes: Geometry, count: int, *, is_shared: bool, is_ragged: bool = False, seed: int = 0
) -> list[Example]:
    """Question-answer pairs of one image as token ids.

    Args:
        sizes: of the model, and the lengths.
        count: of the pairs.
        is_shared: whether the image has one name, or a name in each pair; then rows encode
            it anew, as they do where a batch was drawn from all images.
        is_ragged: answers of unequal lengths.
        seed: of the ids.
    """
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, sizes.vocab - 1, (length,), generator=generator).tolist())

    image = (IMAGE,) * sizes.image_tokens
    start, end = ids(sizes.tokens_before), ids(sizes.tokens_behind)
    return [
        Example(
            pair_id=str(k),
            kind="instruction",
            image="image" if is_shared else f"image-{k}",
            instruction="",
            prefix=(*start, *image, *ids(sizes.question_tokens), *end),
            chosen=ids(sizes.answer_tokens - (k % 5 if is_ragged else 0)),
            rejected=(),
            cut=0,
        )
        for k in range(count)
    ]


def _minigpt4(sizes: Geometry, llama: dict) -> Backbone:
    unread = LlamaTokenizer.__new__(LlamaTokenizer)  # the pairs are token ids already
    model = decoder.build_llama(llama, where=sizes.name)
    folder = LlamaFolder(path=Path(), config=llama, tokenizer=unread, model=model)
    eva = vision.EvaSizes(
        image_size=_SIDE,
        patch_size=_PATCH,
        width=sizes.tower_width,
        depth=sizes.tower_depth,
        heads=sizes.tower_heads,
        mlp_width=sizes.tower_mlp_width,
    )
    queries = QFormerSizes(
        queries=sizes.queries,
        width=sizes.query_width,
        depth=sizes.query_depth,
        heads=4,
        mlp_width=sizes.query_mlp_width,
        vocab_size=8,
        positions=8,
    )
    return minigpt4.MiniGPT4("minigpt4/llama2", folder, eva=eva, qformer=queries)


def _mplug_owl(sizes: Geometry, llama: dict) -> Backbone:
    vision = {
        "hidden_size": sizes.tower_width,
        "intermediate_size": sizes.tower_mlp_width,
        "num_hidden_layers": sizes.tower_depth,
        "num_attention_heads": sizes.tower_heads,
        "image_size": _SIDE,
        "patch_size": _PATCH,
        "layer_norm_eps": 1e-6,
    }
    abstractor = {
        "hidden_size": sizes.query_width,
        "intermediate_size": sizes.query_mlp_width,
        "encoder_hidden_size": sizes.tower_width,
        "num_hidden_layers": sizes.query_depth,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-6,
    }
    config = {
        "text_config": llama,
        "vision_config": vision,
        "visual_abstractor_config": abstractor,
        "num_query_tokens": sizes.queries,
    }
    return mplug_owl.MplugOwl("mplug_owl/llama-7b", original_config=config, where=sizes.name)
