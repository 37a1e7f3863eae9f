"""mPLUG-Owl: ViT-L -> abstractor (64 queries and an end mark) -> LLaMA; LRV-Instruction V2's base.

Source of prompts, keys and preprocessing: X-PLUG/mPLUG-Owl, modeling_mplug_owl.py,
processing_mplug_owl.py, xgpt3_dataset.py; FuxiaoLiu/LRV-Instruction, utils/inference.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from hadpo.records import BadInput
from hadpo.vlm import checkpoint, decoder, fields
from hadpo.vlm.backbone import CONNECTOR_PART, Backbone, ModelSizes, Variant
from hadpo.vlm.checkpoint import Files, Placement
from hadpo.vlm.decoder import KVState
from hadpo.vlm.prompt import IMAGE, LlamaTokenizer, Prompts, PromptTemplate
from hadpo.vlm.vision import Preprocessing

_IMAGE_LINE = "\nHuman: <image>"  # once per image
_SYSTEM = (  # README and training data
    "<s>The following is a conversation between a curious human and AI assistant. The assistant "
    "gives helpful, detailed, and polite answers to the user's questions."
)
_SYSTEM_LRV = (  # the demo, and LRV's inference script
    "<s>The following is a conversation between a curious human and AI. The AI gives helpful, "
    "detailed, and polite answers to the human's questions."
)
# Training tokenises "\nHuman: " and "AI: " as pieces of their own; inference cuts at images only.
_TRAIN = PromptTemplate(_SYSTEM + "<|>" + _IMAGE_LINE + "<|>\nHuman: <|>{instruction}\n<|>AI: ")
_OWL = Prompts(
    train=_TRAIN,
    evaluate=PromptTemplate(_SYSTEM + _IMAGE_LINE + "\nHuman: {instruction}\nAI: "),
    again=PromptTemplate("\nHuman: {instruction}\nAI: "),
    again_image=PromptTemplate(_IMAGE_LINE + "\nHuman: {instruction}\nAI: "),
    image_part=_IMAGE_LINE,
)
_LRV = Prompts(  # without the blank behind "AI:" that the model was trained on
    train=_TRAIN,
    evaluate=PromptTemplate(_SYSTEM_LRV + _IMAGE_LINE + "\nHuman: {instruction}\nAI:"),
    again=PromptTemplate("\nHuman: {instruction}\nAI:"),
    again_image=PromptTemplate(_IMAGE_LINE + "\nHuman: {instruction}\nAI:"),
    image_part=_IMAGE_LINE,
)


_SOURCE = "MAGAer13/mplug-owl-llama-7b-ft"
_SIZES = ModelSizes(others=450_000_000, image_tokens=65)
VARIANTS = {
    "llama-7b": Variant(prompts=_OWL, source=_SOURCE, sizes=_SIZES),
    "lrv-v2": Variant(prompts=_LRV, source=f"{_SOURCE} and LRV V2's adapter", sizes=_SIZES),
}
PARTS = {
    "language_model": "folder of mPLUG-Owl (authors' layout; it holds the whole model)",
    "connector": CONNECTOR_PART,
}
OPTIONAL_PARTS = ("connector",)  # a recipe may do without

_ABSTRACTOR_LAYER = {  # authors' name within `crossattention` -> ours within a layer
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
_ABSTRACTOR_KEYS = {  # authors' keys -> ours
    **checkpoint.layer_keys(
        "abstractor.encoder.layers.{}.crossattention.", "connector.layers.{}.", _ABSTRACTOR_LAYER
    ),
    "query_tokens": "connector.query_tokens",
    "abstractor.visual_fc.{}": "connector.visual_fc.{}",
    "abstractor.vit_eos": "connector.vit_eos",
}
# The authors pass their config's epsilon to one of the four norms of a layer only.
_ABSTRACTOR_EPS = 1e-5
_VISION_LAYER = {  # authors' name -> ours, within a layer
    "input_layernorm": "norm1",
    "self_attn.query_key_value": "query_key_value",
    "self_attn.dense": "out",
    "post_attention_layernorm": "norm2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_VISION_KEYS = {  # authors' keys -> ours
    **checkpoint.layer_keys("vision_model.encoder.layers.{}.", "vision.layers.{}.", _VISION_LAYER),
    "vision_model.embeddings.cls_token": "vision.cls_token",
    "vision_model.embeddings.position_embedding": "vision.positions",
    "vision_model.embeddings.patch_embed.weight": "vision.patches.weight",
    "vision_model.embeddings.pre_layernorm.{}": "vision.pre_norm.{}",
    "vision_model.post_layernorm.{}": "vision.post_norm.{}",
}
KEYS = {**_VISION_KEYS, **_ABSTRACTOR_KEYS, "language_model.{}": "language_model.{}"}
IGNORED = {f"language_model.{key}": why for key, why in decoder.STORED_TABLES.items()}
_MLP_KEY = "abstractor.encoder.layers.0.crossattention.output.mlp.w1.weight"
_SECTIONS = ("text_config", "vision_config", "visual_abstractor_config")


def quick_gelu(values: Tensor) -> Tensor:
    """The activation of the tower, x * sigmoid(1.702 x), whatever `hidden_act` says."""
    return values * torch.sigmoid(1.702 * values)


class OwlVision(nn.Module):
    """An empty encoder on the meta device, after the checkpoint's `vision_config`."""

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
                _VisionLayer(width, config["intermediate_size"], config["num_attention_heads"], eps)
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


class _VisionLayer(nn.Module):
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


class Abstractor(nn.Module):
    """An empty abstractor on the meta device.

    The authors' dropout on attention, 0.1 in training, is left out: the abstractor is frozen, and
    chosen, rejected, policy and reference see the same image tokens. One image gives a token more
    than there are queries; `width` is the language model's.
    """

    def __init__(self, config: Mapping[str, Any], *, num_queries: int, width: int) -> None:
        super().__init__()
        inner = config["hidden_size"]
        with torch.device("meta"):
            self.query_tokens = nn.Parameter(torch.empty(1, num_queries, inner))
            self.layers = nn.ModuleList(
                _AbstractorLayer(config) for _ in range(config["num_hidden_layers"])
            )
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


class _AbstractorLayer(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        inner, mlp, seen = (
            config[key] for key in ("hidden_size", "intermediate_size", "encoder_hidden_size")
        )
        self.heads = config["num_attention_heads"]
        self.norm1 = nn.LayerNorm(inner, eps=_ABSTRACTOR_EPS)
        self.norm_image = nn.LayerNorm(seen, eps=_ABSTRACTOR_EPS)
        self.query = nn.Linear(inner, inner)
        self.key = nn.Linear(seen, inner)
        self.value = nn.Linear(seen, inner)
        self.out = nn.Linear(inner, inner)
        self.norm2 = nn.LayerNorm(inner, eps=_ABSTRACTOR_EPS)
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


class MplugOwl(Backbone):
    """mPLUG-Owl for pictures; `from_original` fills it."""

    vision: OwlVision
    preprocessing: Preprocessing
    PARTS: ClassVar = PARTS
    KEYS: ClassVar = KEYS
    FOLDER_FILES: ClassVar = ("*token*", "preprocessor_config.json", "generation_config.json")
    CONNECTOR_KEYS: ClassVar = _ABSTRACTOR_KEYS

    def __init__(self, name: str, *, original_config: Mapping[str, Any], where: str) -> None:
        _check_config(original_config, where)
        language_model = decoder.build_llama(original_config["text_config"], where=where)
        declared = VARIANTS[name.partition("/")[2]]
        super().__init__(name, declared, language_model, original_config)
        self.vision = OwlVision(original_config["vision_config"])
        self.connector = Abstractor(
            original_config["visual_abstractor_config"],
            num_queries=original_config["num_query_tokens"],
            width=language_model.config.hidden_size,
        )
        self.num_image_tokens = original_config["num_query_tokens"] + 1

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """Squash to a square, whatever the sides, and normalise."""
        return self.preprocessing(image)

    def features(
        self, pixels: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images patches features"]:
        """States behind the last norm, the CLS token first."""
        return self.vision(pixels)

    def connect(
        self, features: Float[Tensor, "images patches features"], instructions: Sequence[str]
    ) -> Float[Tensor, "images tokens width"]:
        """The abstractor; its tokens do not depend on the instruction."""
        return self.connector(features)

    def prompt_ids(
        self, instruction: str, *, prompt: Literal["train", "evaluate"], num_images: int = 1
    ) -> list[int]:
        """Ids of the whole prompt; each image has a line `Human: <image>` and one `IMAGE`.

        Records and batches hold one image per row. Prompts about several images go through
        `expand` and `prefill`, with the tokens of a row's images one after the other.
        """
        template = getattr(self.PROMPTS, prompt)
        lines = template.text.replace(_IMAGE_LINE, _IMAGE_LINE * num_images)
        return dataclasses.replace(template, text=lines).tokenize(instruction, self.tokenizer)

    def expand(self, ids: Sequence[int]) -> list[int]:
        """The same ids with every `IMAGE` once per image token: one id per position."""
        if IMAGE not in ids:
            raise BadInput("a prompt needs an image, found none")
        return [i for n in ids for i in ([n] * (self.num_image_tokens if n == IMAGE else 1))]

    def prefill(
        self,
        ids: Sequence[Sequence[int]],
        image_tokens: Float[Tensor, "rows tokens width"] | None = None,
    ) -> KVState:
        """As `Backbone.prefill`; all rows have the same number of images.

        Raises:
            BadInput: a row has more or fewer image positions than image tokens.
        """
        given = 0 if image_tokens is None else image_tokens.shape[1]
        for row, one in enumerate(ids):
            wanted = list(one).count(IMAGE)
            if wanted != given:
                images = f"{wanted / self.num_image_tokens:g} images"
                raise BadInput(
                    f"row {row}: the prompt has room for {images} ({wanted} positions), "
                    f"but {given} image tokens were given"
                )
        return super().prefill(ids, image_tokens)

    def files_with(self, language_model: Path) -> dict[str, Path]:
        """The saved folder is complete, a finetuned connector included."""
        return {"language_model": language_model}


def from_original(
    files: Files, *, variant: str, quantization: str = "none", **to: Unpack[Placement]
) -> MplugOwl:
    """mPLUG-Owl from the authors' folder.

    Raises:
        BadInput: the part is missing, or its files are broken or do not fit.
    """
    name = f"mplug_owl/{variant}"
    needed = {"language_model": PARTS["language_model"]}
    folder = checkpoint.locate_parts(name, files, needed)["language_model"]
    where = str(folder / "config.json")
    config = checkpoint.read_json(folder / "config.json")
    _check_config(config, where)
    sources = checkpoint.weight_files(folder, what="language_model")
    config = _with_true_width(config, sources)
    backbone = MplugOwl(name, original_config=config, where=where)
    backbone.tokenizer = LlamaTokenizer(folder)
    backbone.tokenizer.check_rows(backbone.embedding.num_embeddings, where=where)
    backbone.files = {"language_model": folder}
    backbone.preprocessing = Preprocessing.read(
        folder, image_size=backbone.vision.image_size, squash=True
    )
    checkpoint.quantise(backbone.language_model, quantization, dtype=to["dtype"])
    checkpoint.fill(backbone, sources, keys=KEYS, ignored=IGNORED, **to)
    return backbone


def _check_config(config: Mapping[str, Any], where: str) -> None:
    missing = [name for name in _SECTIONS if not isinstance(config.get(name), Mapping)]
    if "num_query_tokens" not in config:
        missing.append("num_query_tokens")
    if missing:
        raise BadInput(
            f"{where}: no mPLUG-Owl (model_type {config.get('model_type')!r}, no "
            f"{', '.join(missing)}); expected a folder as {VARIANTS['llama-7b'].source}"
        )
    fields.check(config, "mplug_owl", where=where)


def _with_true_width(config: dict[str, Any], sources: Sequence[Path]) -> dict[str, Any]:
    """The config with the abstractor's MLP width as the weights have it.

    Some published configs say 4096, where the authors' code had made it 2816.

    Raises:
        BadInput: the weights are of a relative that needs other code, or a whole finetuned model.
    """
    for path in sources:
        for key, value in checkpoint.read_tensors(path):
            if "temporal" in key:
                raise BadInput(
                    f"{path}: mPLUG-Owl for video (it has {key!r}); only pictures are supported, "
                    f"expected a folder as {VARIANTS['llama-7b'].source}"
                )
            if key.startswith("base_model."):
                raise BadInput(
                    f"{path}: a model saved with its LoRA inside (it has {key!r}), as LRV V2 was "
                    "published; hadpo convert-dump takes the adapter out of it"
                )
            if key == _MLP_KEY and value.ndim == 2:
                abstractor = config["visual_abstractor_config"] | {"intermediate_size": len(value)}
                return config | {"visual_abstractor_config": abstractor}
    return config  # `fill` lists what is missing
