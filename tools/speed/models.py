"""Models with random weights at the sizes that matter, and pairs of token ids to run them on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hadpo import adapter, config
from hadpo.backbones import instructblip, llava, minigpt4, mplug_owl
from hadpo.batch import Example
from hadpo.plugins import choices
from hadpo.records import BadInput
from hadpo.vlm import decoder, vision
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.decoder import LlamaFolder
from hadpo.vlm.prompt import IMAGE, LlamaTokenizer
from hadpo.vlm.qformer import QFormerSizes, WordPieces
from tools.speed import hub

_WORDS = 8  # that the Q-Former knows, and reads of an instruction
_SPREAD = 0.02  # standard deviation of the weights, as LLaVA was initialised
_TOKENIZER = config.PACKAGE / "mini" / "weights" / "llava" / "llava-v1.5-mini"
# Gains of weights that make questions count beside 576 random image tokens, and answers differ.
_TALKATIVE = {"embed_tokens": 4.0, "connector.2.weight": 4.0, "q_proj": 6.0, "k_proj": 6.0}
_KINDS: dict[str, Literal["description", "pope", "instruction"]] = {
    "desc": "description",
    "pope": "pope",
    "instruction": "instruction",
}


class _Pieces(LlamaTokenizer):
    """In place of LLaMA's tokenizer, where the number of its pieces is asked for."""

    rows: int

    @property
    def vocab_size(self) -> int:
        return self.rows


class _Words(WordPieces):
    """In place of BERT's tokenizer: every instruction has the same few words."""

    def encode(self, text: str) -> list[int]:
        return list(range(_WORDS))


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a model, and lengths of the pairs that it is measured on."""

    name: str
    family: Literal["llava", "minigpt4", "mplug_owl", "instructblip", "hf"]
    kind: str = ""  # of hf: transformers' model type; its tower has the class's own sizes
    width: int  # of the language model
    mlp_width: int
    depth: int
    heads: int
    few_heads: int = 0  # of keys and values; 0: as many as heads
    head_width: int = 0  # of hf
    is_tied: bool = False  # hf's head is its embedding
    vocab: int
    rank: int = 0  # of the LoRA; 0: the connector is trained instead
    targets: str = ""  # of the LoRA; empty: as HA-DPO's MiniGPT-4, or mPLUG-Owl, has it
    tower_width: int  # of the image encoder
    tower_mlp_width: int
    tower_depth: int
    tower_heads: int
    image_size: int  # pixels of a side
    patch_size: int = 14  # pixels of a side
    queries: int = 0  # of the Q-Former or the abstractor, an image of hf; 0: patches are projected
    query_width: int = 0
    query_mlp_width: int = 0
    query_depth: int = 0
    tokens_before: int = 0  # of the prompt, in front of the image: the same for all pairs
    question_tokens: int = 0  # behind the image: they differ between the pairs of an image
    tokens_behind: int = 0  # of the prompt, behind the question
    answers: Mapping[str, int]  # kind of pair -> tokens of each answer, the end mark among them
    pairs: int = 1  # in a step

    @property
    def is_mini(self) -> bool:
        """Whether it is too small for its times to mean anything."""
        return "tiny" in self.name

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def image_tokens(self) -> int:
        """Positions that an image takes in a row: mPLUG-Owl has an end mark behind its queries."""
        if self.family == "llava":
            return self.patches
        return self.queries + (self.family == "mplug_owl") if self.queries else self.patches // 4

    @property
    def shared(self) -> int:
        """Positions that all pairs of an image have in common: up to the image's last."""
        return self.tokens_before + self.image_tokens

    @property
    def rest(self) -> int:
        """Positions of the prompt behind those, which each pair has for itself."""
        return self.question_tokens + self.tokens_behind


_LLAMA_7B = {"width": 4096, "mlp_width": 11008, "depth": 32, "heads": 32, "vocab": 32000}


def _tower(width: int, mlp_width: int, depth: int, heads: int, image_size: int) -> dict[str, Any]:
    sizes = {"tower_width": width, "tower_mlp_width": mlp_width, "tower_depth": depth}
    return sizes | {"tower_heads": heads, "image_size": image_size}


def _queries(width: int, mlp_width: int, depth: int) -> dict[str, Any]:
    return {"query_width": width, "query_mlp_width": mlp_width, "query_depth": depth}


def _preference(before: int, desc: int = 100, pope: int = 12) -> dict[str, Any]:
    answers = {"desc": desc, "pope": pope}
    return {"tokens_before": before, "question_tokens": 12, "answers": answers}


# The MLP is fat, so that attention is a tenth of a layer and not half of it, and the vocabulary
# small, so that the output layer has the share of the work that it has in a 7B model. One pass of
# the encoder costs a few per cent of a row, as CLIP-L beside a 7B language model.
_TOY = Geometry(
    name="toy",
    family="llava",
    **{"width": 256, "mlp_width": 4096, "depth": 2, "heads": 8, "vocab": 400, "rank": 16},
    **_tower(48, 192, 6, 3, 336),
    **_preference(28),
)
_TINY = {"width": 64, "mlp_width": 96, "depth": 3, "heads": 4, "vocab": 120, "rank": 4}
GEOMETRIES = {  # of preference training
    g.name: g
    for g in (
        _TOY,
        # for peak memory: more layers, the usual MLP, a larger vocabulary
        replace(_TOY, name="toy-memory", mlp_width=1376, depth=4, vocab=8000),
        # for equality in float64, and for tests
        replace(_TOY, name="tiny", image_size=56, **_TINY, **_preference(8, 9, 3)),
        replace(
            _TOY,
            **{"name": "tiny-minigpt4", "family": "minigpt4"},
            **_TINY,
            **_tower(32, 48, 2, 2, 56),
            **_preference(4, 9, 3),
        ),
        Geometry(
            name="llava-7b",
            family="llava",
            **_LLAMA_7B,
            **_tower(1024, 4096, 24, 16, 336),
            **_preference(28),
            rank=128,
            pairs=4,
        ),
        Geometry(
            name="minigpt4-7b",
            family="minigpt4",
            **_LLAMA_7B,
            **_tower(1408, 6144, 39, 16, 224),
            **_preference(4),
            rank=64,
            pairs=8,  # fewer would be bound by reading the weights
        ),
    )
}
# For counting only: the lengths of HA-DPO's data, and what its recipes train.
ALL_LINEAR = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
_LONG: dict[str, Any] = {"answers": {"desc": 110, "pope": 8}, "pairs": 1}
COUNTED = {
    g.name: g
    for g in (
        replace(
            GEOMETRIES["llava-7b"],
            **{"tokens_before": 40, "question_tokens": 20, "targets": ALL_LINEAR},
            **_LONG,
        ),
        Geometry(
            name="instructblip-13b",
            family="instructblip",
            **{"width": 5120, "mlp_width": 13824, "depth": 40, "heads": 40, "vocab": 32000},
            **_tower(1408, 6144, 39, 16, 224),
            queries=32,
            **_queries(768, 3072, 12),
            **{"question_tokens": 10, "rank": 64},
            **_LONG,
        ),
        replace(
            GEOMETRIES["llava-7b"],  # the same around a language model of 2024
            **{"name": "llava-llama3-8b", "mlp_width": 14336, "few_heads": 8, "vocab": 128256},
            **{"tokens_before": 40, "question_tokens": 20, "targets": ALL_LINEAR},
            **_LONG,
        ),
    )
}
# LRV's finetuning. Lengths are those of its data with LLaMA's tokenizer, about: a question has 11.4
# words and an answer 12 (it may have 30), a word 1.3 tokens.
_LRV: dict[str, Any] = {"question_tokens": 15, "answers": {"instruction": 18}}
_MINIGPT4 = Geometry(
    name="minigpt4-7b",
    family="minigpt4",
    **_LLAMA_7B,
    **_tower(1408, 6144, 39, 16, 224),
    queries=32,
    **_queries(768, 3072, 12),
    tokens_before=12,
    tokens_behind=6,
    **_LRV,
)
_OWL = Geometry(
    name="mplug-owl-7b",
    family="mplug_owl",
    **_LLAMA_7B,
    rank=8,
    **_tower(1024, 4096, 24, 16, 224),
    queries=64,
    **_queries(1024, 2816, 6),  # as wide as its tower
    tokens_before=43,
    tokens_behind=4,
    **_LRV,
)
FINETUNED_7B = (_MINIGPT4, _OWL)  # for counting products only
# The MLP is fat, so that attention has about the share of a layer's work that it has in a 7B model;
# the tower's pass has the share beside reading a row that EVA and ViT-L have there.
_SMALL = {"width": 256, "mlp_width": 8192, "depth": 2, "heads": 8, "vocab": 400}
_SMALLER = {"width": 32, "mlp_width": 48, "depth": 2, "heads": 4, "vocab": 120}
_FEW = _queries(32, 96, 2)
FINETUNED = (
    replace(_MINIGPT4, name="minigpt4-toy", **_SMALL, **_FEW, **_tower(96, 2304, 4, 4, 224)),
    replace(_OWL, name="mplug-owl-toy", **_SMALL, **_FEW, **_tower(32, 3072, 3, 4, 224)),
)
FINETUNED_TINY = (  # for tests
    replace(_MINIGPT4, name="minigpt4-tiny", **_SMALLER, **_FEW, **_tower(32, 32, 2, 2, 224)),
    replace(_OWL, name="mplug-owl-tiny", **_SMALLER, **_FEW, **_tower(32, 32, 2, 2, 224)),
)
# A LLaVA that reads real prompts: 336 pixels give its 576 image tokens; the MLP is fat, as above.
TALKING = Geometry(
    name="llava-talking",
    family="llava",
    **{"width": 256, "mlp_width": 4096, "depth": 2, "heads": 4, "vocab": 560},
    **_tower(64, 256, 3, 4, 336),
    answers={},
)


def hub_class(kind: str, image_tokens: int) -> Geometry:
    """A class of transformers; the sizes of its language model are still to be set."""
    nothing = dict.fromkeys(("width", "mlp_width", "depth", "heads", "vocab"), 0)
    return Geometry(
        **{"name": kind, "family": "hf", "kind": kind, "queries": image_tokens, "answers": {}},
        **nothing,
        **_tower(0, 0, 0, 0, 0),
    )


def find(name: str) -> Geometry:
    """The geometry of that name; BadInput with the choices if there is none."""
    if name not in GEOMETRIES:
        raise BadInput(f"no geometry {name!r}; {choices(name, GEOMETRIES)}")
    return GEOMETRIES[name]


def build(
    geometry: Geometry, *, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0
) -> Backbone:
    """A frozen backbone with random weights; what is trained is open.

    That is an adapter whose B is not zero (else A would have no gradient), or without a rank the
    connector.
    """
    backbone = _filled(geometry, dtype, device, seed, lambda name, shape: _SPREAD)
    if not geometry.rank:
        adapter.trained.open_connector(backbone)
        return backbone
    _attach(backbone, geometry)
    generator = torch.Generator(device).manual_seed(seed + 1)
    for key, value in adapter.state(backbone).items():
        if ".lora_B." in key:
            value.normal_(std=_SPREAD, generator=generator)
    return backbone


def _attach(backbone: Backbone, geometry: Geometry) -> None:
    is_owl = geometry.family == "mplug_owl"
    names = geometry.targets or ("q_proj,v_proj" if is_owl else "q_proj,k_proj,v_proj")
    alpha = (4.0 if is_owl else 2.0) * geometry.rank
    adapter.attach(backbone, rank=geometry.rank, alpha=alpha, targets=names)


def on_meta(geometry: Geometry, *, dtype: torch.dtype, trains: bool = True) -> Backbone:
    """A frozen backbone without weights, to be counted; integer tables are real, on the CPU."""
    backbone = _empty(geometry)
    weights: dict[Any, nn.Parameter] = {}  # a tied one stays one
    for module in backbone.modules():
        for name, own in module._parameters.items():
            if own is not None and own not in weights:
                empty = torch.empty(own.shape, dtype=dtype, device="meta")
                weights[own] = nn.Parameter(empty, requires_grad=False)
            module._parameters[name] = weights.get(own)
        fix_buffers(module)
    if trains and geometry.rank:
        _attach(backbone, geometry)
    elif trains:
        adapter.trained.open_connector(backbone)
    return backbone.eval()


def leave_lora_to_peft(backbone: Backbone) -> None:
    """Compute LoRA as peft does, which is what everybody else has."""
    for module in backbone.language_model.modules():
        if hasattr(module, "lora_A"):
            module.__dict__.pop("forward", None)


def fix_buffers(module: nn.Module) -> None:
    """Floating tables onto the meta device, integer ones off it."""
    for name, table in module._buffers.items():
        if table is not None and table.is_floating_point():
            module._buffers[name] = table.to("meta")
        elif table is not None and table.device.type == "meta":
            module._buffers[name] = torch.arange(table.numel()).view(table.shape)


def talking(geometry: Geometry = TALKING, *, seed: int = 0) -> Backbone:
    """A LLaVA without an adapter, float32 on the CPU, that reads texts and answers differently."""

    def spread(name: str, shape: torch.Size) -> float:
        gain = next((value for key, value in _TALKATIVE.items() if key in name), 1.0)
        is_tower = name.startswith("vision.")
        return (1.0 if is_tower else gain) * max(shape[1:].numel(), 1) ** -0.5

    backbone = _filled(geometry, torch.float32, "cpu", seed, spread)
    backbone.tokenizer = LlamaTokenizer(_TOKENIZER)
    backbone.files = {}
    assert isinstance(backbone, llava.Llava)
    backbone.preprocessing = vision.Preprocessing(image_size=geometry.image_size, pad=True)
    return backbone


def trained(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The weights with a gradient, by name."""
    return {name: p for name, p in backbone.named_parameters() if p.requires_grad}


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
        kind: "desc" or "pope" have two answers, "instruction" has one.
        count: of the pairs.
        images: that they show in turn.
        seed: of the ids.
        is_ragged: answers of unequal lengths; else all have the same, which is the best case for
            code that pads.
    """
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, geometry.vocab - 1, (length,), generator=generator).tolist())

    start, end = ids(geometry.tokens_before), ids(geometry.tokens_behind)
    image = (IMAGE,) * geometry.image_tokens
    length = geometry.answers[kind]
    return [
        Example(
            pair_id=f"{kind}-{k}",
            kind=_KINDS[kind],
            image=f"image-{k % images}",
            instruction="",
            prefix=(*start, *image, *ids(geometry.question_tokens), *end),
            chosen=ids(length - (k % 3 if is_ragged else 0)),
            rejected=()
            if kind == "instruction"
            else ids(length - ((k + 1) % 3 if is_ragged else 0)),
            cut=0,
        )
        for k in range(count)
    ]


def draw_pixels(
    geometry: Geometry, count: int, *, dtype: torch.dtype, seed: int = 0
) -> Float[Tensor, "images 3 side side"]:
    """Pixels of `count` images, on the CPU."""
    side = geometry.image_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator).to(dtype)


def clip_config(geometry: Geometry) -> dict[str, int]:
    """The config of the image encoder, by the names of CLIP."""
    return {
        "hidden_size": geometry.tower_width,
        "intermediate_size": geometry.tower_mlp_width,
        "num_hidden_layers": geometry.tower_depth,
        "num_attention_heads": geometry.tower_heads,
        "image_size": geometry.image_size,
        "patch_size": geometry.patch_size,
    }


def _filled(
    geometry: Geometry,
    dtype: torch.dtype,
    device: torch.device | str,
    seed: int,
    spread: Callable[[str, torch.Size], float],
) -> Backbone:
    """Random weights in place of those on the meta device; what is no matrix stays near one."""
    backbone = _empty(geometry)
    generator = torch.Generator(device).manual_seed(seed)
    values = {}
    for name, parameter in backbone.named_parameters():
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        value = torch.empty(parameter.shape, dtype=dtype, device=device)
        std = _SPREAD if parameter.dim() == 1 else spread(name, parameter.shape)
        values[name] = value.normal_(mean=float(is_norm), std=std, generator=generator)
    backbone.load_state_dict(values, strict=False, assign=True)
    return backbone.requires_grad_(False).to(device).eval()


def _empty(geometry: Geometry) -> Backbone:
    """On the meta device, as the readers of the authors' files build it."""
    llama = {
        "vocab_size": geometry.vocab,
        "hidden_size": geometry.width,
        "intermediate_size": geometry.mlp_width,
        "num_hidden_layers": geometry.depth,
        "num_attention_heads": geometry.heads,
        "num_key_value_heads": geometry.few_heads or geometry.heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
    }
    if geometry.family == "hf":
        return hub.empty(geometry)
    if geometry.family == "llava":
        return llava.Llava(
            "llava/mini",
            vision_config=clip_config(geometry),
            original_config=llama | {"mm_vision_select_layer": -2},
            where=geometry.name,
        )
    if geometry.family in ("minigpt4", "instructblip"):
        unread = LlamaTokenizer.__new__(LlamaTokenizer)  # the pairs are token ids already
        model = decoder.build_llama(llama, where=geometry.name)
        folder = LlamaFolder(path=Path(), config=llama, tokenizer=unread, model=model)
        eva = vision.EvaSizes(
            image_size=geometry.image_size,
            patch_size=geometry.patch_size,
            width=geometry.tower_width,
            depth=geometry.tower_depth,
            heads=geometry.tower_heads,
            mlp_width=geometry.tower_mlp_width,
        )
        queries = QFormerSizes(
            queries=geometry.queries,
            width=geometry.query_width,
            depth=geometry.query_depth,
            heads=4,
            mlp_width=geometry.query_mlp_width,
            vocab_size=_WORDS,
            positions=_WORDS,
        )
        if geometry.family == "instructblip":
            unread = _Pieces.__new__(_Pieces)
            unread.rows = geometry.vocab
            folder = dataclasses.replace(folder, tokenizer=unread)
            blip = instructblip.InstructBlip(
                "instructblip/vicuna13b", folder, eva=eva, qformer=queries
            )
            blip.word_pieces = _Words.__new__(_Words)
            return blip
        qformer = queries if geometry.queries else None
        return minigpt4.MiniGPT4("minigpt4/llama2", folder, eva=eva, qformer=qformer)
    abstractor = {
        "hidden_size": geometry.query_width,
        "intermediate_size": geometry.query_mlp_width,
        "encoder_hidden_size": geometry.tower_width,
        "num_hidden_layers": geometry.query_depth,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-6,
    }
    original = {
        "text_config": llama,
        "vision_config": clip_config(geometry) | {"layer_norm_eps": 1e-6},
        "visual_abstractor_config": abstractor,
        "num_query_tokens": geometry.queries,
    }
    return mplug_owl.MplugOwl("mplug_owl/llama-7b", original_config=original, where=geometry.name)
