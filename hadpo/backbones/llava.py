"""LLaVA-1.5: CLIP ViT (second last layer, without CLS) -> two-layer MLP -> Vicuna.

Source of prompts, keys and preprocessing: haotian-liu/LLaVA, conversation.py, clip_encoder.py,
mm_utils.py; HA-DPO trains with "user" and evaluates with "human" in the system sentence.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from hadpo.records import BadInput, write_text
from hadpo.vlm import checkpoint, decoder
from hadpo.vlm.backbone import (
    CONNECTOR_PART,
    LLAMA_13B,
    Backbone,
    ModelSizes,
    Variant,
    choose_device,
    choose_dtype,
    replace_connector,
)
from hadpo.vlm.checkpoint import locate
from hadpo.vlm.prompt import LlamaTokenizer, Prompts, PromptTemplate
from hadpo.vlm.vision import CLIP_KEYS, ClipTower, Preprocessing, clip_ignored

# LLaVA's prompts, byte by byte; source: LLaVA's conversation.py.

_TURN = "USER: <image>\n{instruction} ASSISTANT:"
_AGAIN = PromptTemplate("</s>USER: {instruction} ASSISTANT:")
VICUNA = Prompts(
    train=PromptTemplate(  # conv_vicuna_v1
        "<s>A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        + _TURN
    ),
    evaluate=PromptTemplate(  # conv_llava_v1: "human" where training says "user"
        "<s>A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions. "
        + _TURN
    ),
    again=_AGAIN,
)
MINI = Prompts(
    train=PromptTemplate("<s>" + _TURN), evaluate=PromptTemplate("<s>" + _TURN), again=_AGAIN
)


VARIANTS = {
    "1.5-7b": Variant(
        prompts=VICUNA,
        source="liuhaotian/llava-v1.5-7b",
        sizes=ModelSizes(others=325_000_000, image_tokens=576),
    ),
    "1.5-13b": Variant(
        prompts=VICUNA,
        source="liuhaotian/llava-v1.5-13b",
        sizes=ModelSizes(others=325_000_000, image_tokens=576, **LLAMA_13B),
    ),
    "mini": Variant(
        prompts=MINI,
        source="hadpo/mini/weights/llava",
        sizes=ModelSizes(
            width=128, inner=320, layers=3, vocab=560, others=533_888, image_tokens=36
        ),
    ),
}
PARTS = {
    "language_model": "folder of LLaVA (authors' layout, or transformers' LLaVA folder)",
    "vision": "folder of the CLIP model; not needed beside transformers' LLaVA folder",
    "connector": CONNECTOR_PART,
}
OPTIONAL_PARTS = ("vision", "connector")  # a recipe may do without

KEYS = {  # authors' folder -> ours
    "model.mm_projector.{}": "connector.{}",
    "model.{}": "language_model.model.{}",
    "lm_head.weight": "language_model.lm_head.weight",
}
IGNORED = {
    "model.vision_tower.{}": "the authors load the tower from its own folder",
    **decoder.STORED_TABLES,
}
HUB_KEYS = {  # transformers' folder, as it was published and as transformers 5 saves it -> ours
    "language_model.model.{}": "language_model.model.{}",
    "language_model.lm_head.weight": "language_model.lm_head.weight",
    "model.language_model.{}": "language_model.model.{}",
    "lm_head.weight": "language_model.lm_head.weight",
    "multi_modal_projector.linear_1.{}": "connector.0.{}",
    "multi_modal_projector.linear_2.{}": "connector.2.{}",
    "model.multi_modal_projector.linear_1.{}": "connector.0.{}",
    "model.multi_modal_projector.linear_2.{}": "connector.2.{}",
}
HUB_IGNORED = {
    "vision_tower.{}": "read as the part vision",
    "model.vision_tower.{}": "read as the part vision",
    **decoder.STORED_TABLES,
}


class Llava(Backbone):
    """LLaVA-1.5 of any size; `from_original` fills it."""

    vision: ClipTower
    preprocessing: Preprocessing
    PARTS: ClassVar = PARTS
    # HA-DPO trained the projector by accident (llava_arch.py re-enables it) and published it, too.
    EXTRA_ADAPTER_KEYS: ClassVar = {"base_model.model.model.mm_projector.{}": "connector.{}"}
    CONNECTOR_KEYS: ClassVar = {"model.mm_projector.{}": "connector.{}"}
    CONNECTOR_FILE: ClassVar = "mm_projector.bin"  # as LLaVA's first stage writes it

    def __init__(
        self,
        name: str,
        *,
        vision_config: Mapping[str, Any],
        original_config: Mapping[str, Any],
        where: str,
    ) -> None:
        super().__init__()
        self.name = name
        self.PROMPTS = VARIANTS[self.variant].prompts
        self.original_config = dict(original_config)
        self.language_model = decoder.build_llama(original_config, where=where)
        self.vision = ClipTower(vision_config, original_config["mm_vision_select_layer"])
        width = self.language_model.config.hidden_size
        with init_empty_weights():
            self.connector = nn.Sequential(
                nn.Linear(self.vision.width, width), nn.GELU(), nn.Linear(width, width)
            )
        self.num_image_tokens = self.vision.num_patches

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 side side"]:
        """Pad to a square, resize, crop, normalise, as the checkpoint's config says."""
        return self.preprocessing(image)

    def features(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images patches features"]:
        """Patch states before CLIP's last layer; the encoder was built without that layer."""
        return self.vision(pixels)[:, 1:]

    def connect(
        self, features: Float[Tensor, "images patches features"], instructions: Sequence[str]
    ) -> Float[Tensor, "images tokens width"]:
        """The MLP; LLaVA's image tokens do not depend on the instruction."""
        return self.connector(features)

    def save_original(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write config, tokenizer and weights as the authors do; the CLIP folder stays as it is."""
        weights = {}
        for key, value in self.state_dict().items():
            name = next(
                filter(None, (checkpoint.translate_back(key, k, t) for k, t in KEYS.items())), None
            )
            if name is not None:
                weights[name] = value
        folder.mkdir(parents=True, exist_ok=True)
        shard_bytes = checkpoint.SHARD_BYTES
        checkpoint.write_tensors(folder, weights, shard_bytes=shard_bytes, dtype=dtype)
        config = self.original_config | {"torch_dtype": str(dtype).removeprefix("torch.")}
        write_text(folder / "config.json", json.dumps(config, indent=1))
        for path in self.tokenizer.path.parent.glob("*token*"):
            if path.suffix in (".model", ".json") and path.parent != folder:
                shutil.copyfile(path, folder / path.name)

    def save_transformers(self, folder: Path, *, dtype: torch.dtype) -> bool:
        """Write the whole model for `LlavaForConditionalGeneration`; it loads here, too."""
        save_hub(
            folder,
            {"language_model": self.language_model, "connector": self.connector},
            original_config=self.original_config,
            image_tokens=self.num_image_tokens,
            vision_folder=self.files["vision"],
            tokenizer=self.tokenizer.path,
            dtype=dtype,
        )
        return True

    def files_with(self, language_model: Path) -> dict[str, Path]:
        """Saved weights lie in the authors' layout, so the tower needs a place of its own."""
        return {"language_model": language_model, "vision": self.files["vision"]}


def from_original(
    files: Mapping[str, str | Path],
    *,
    variant: str,
    dtype: str = "auto",
    device: str = "auto",
    quantization: str = "none",
) -> Llava:
    """LLaVA from the authors' files, or from a transformers LLaVA folder as `language_model`.

    `files` are the parts that `PARTS` names; the other arguments are those of `backbones.load`.

    Raises:
        BadInput: a part is missing, or its files are broken or do not fit.
    """
    if "language_model" not in files:
        raise BadInput(f"llava/{variant}: files need language_model: {PARTS['language_model']}")
    folder = locate(files["language_model"], what="language_model")
    config = checkpoint.read_json(folder / "config.json")
    is_hub = "text_config" in config
    if not is_hub:
        _check_original(config, folder / "config.json")
    if not is_hub and "vision" not in files:
        raise BadInput(f"llava/{variant}: files need vision: {PARTS['vision']}")
    vision_folder = locate(files.get("vision", folder), what="vision")
    vision_config = checkpoint.read_json(vision_folder / "config.json")
    vision_config = vision_config.get("vision_config", vision_config)
    tokenizer = LlamaTokenizer(folder)
    if is_hub:
        original_config = _as_original_config(config, vision_config, tokenizer.vocab_size)
    else:
        original_config = config
    backbone = Llava(
        f"llava/{variant}",
        vision_config=vision_config,
        original_config=original_config,
        where=str(folder / "config.json"),
    )
    checkpoint.check_width(
        *(folder / "config.json", backbone.embedding.embedding_dim, VARIANTS[variant].sizes.width),
        name=backbone.name,
    )
    tokenizer.check_rows(backbone.embedding.num_embeddings, where=f"{folder}/config.json")
    if not tokenizer.splits_at_blanks:
        raise BadInput(f"{tokenizer.path}: pieces run over blanks; no LLaMA tokenizer does")
    backbone.tokenizer = tokenizer
    backbone.files = {"language_model": folder, "vision": vision_folder}
    backbone.preprocessing = Preprocessing.read(
        vision_folder,
        image_size=backbone.vision.image_size,
        pad=original_config.get("image_aspect_ratio") == "pad",
    )
    place = choose_device(device)
    numbers = choose_dtype(dtype, place, quantization)
    checkpoint.quantise(backbone.language_model, quantization, dtype=numbers)
    vocab = backbone.embedding.num_embeddings
    checkpoint.fill(
        nn.ModuleDict({"language_model": backbone.language_model, "connector": backbone.connector}),
        checkpoint.weight_files(folder, what="language_model"),
        keys=HUB_KEYS if is_hub else KEYS,
        ignored=HUB_IGNORED if is_hub else IGNORED,
        dtype=numbers,
        device=place,
        rows=dict.fromkeys(_VOCABULARY, vocab) if is_hub else None,
    )
    checkpoint.fill(
        backbone.vision,
        checkpoint.weight_files(vision_folder, what="vision"),
        keys=CLIP_KEYS,
        ignored=clip_ignored(backbone.vision),
        dtype=numbers,
        device=place,
    )
    replace_connector(backbone, files)
    return backbone.to(place).eval()


_VOCABULARY = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_LLAVA_SETTINGS = {  # what this file implements; another value needs another file
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
}
_HUB_TEXT_DEFAULTS = {  # transformers leaves out of `text_config` what LLaMA-7B has
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "vocab_size": 32000,
}


def _check_original(config: Mapping[str, Any], path: Path) -> None:
    wrong = []
    if "mm_projector_type" not in config or "mm_vision_select_layer" not in config:
        kind = config.get("model_type")
        raise BadInput(
            f"{path}: no LLaVA (model_type {kind!r}, no mm_projector_type); expected a folder as "
            "liuhaotian/llava-v1.5-7b, or transformers' with text_config"
        )
    for key, value in _LLAVA_SETTINGS.items():
        if config.get(key, value) != value:
            wrong.append(f"{key}: found {config[key]!r}, expected {value!r}")
    if wrong:
        raise BadInput(f"{path}: not LLaVA-1.5: " + "; ".join(wrong))


def _as_original_config(
    config: Mapping[str, Any], vision: Mapping[str, Any], pieces: int
) -> dict[str, Any]:
    """The authors' `config.json` of a transformers LLaVA folder.

    Transformers adds rows to the vocabulary (an image token, padding); the originals have none, and
    extra rows would change the softmax, so only the tokenizer's own rows are kept.
    """
    text = _HUB_TEXT_DEFAULTS | dict(config["text_config"])
    return {
        **text,
        "vocab_size": min(text["vocab_size"], pieces),
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_hidden_size": vision.get("hidden_size", 768),
        "mm_vision_select_layer": config.get("vision_feature_layer", -2),
        "image_aspect_ratio": "pad",
        **_LLAVA_SETTINGS,
    }


# A LLaVA written as transformers keeps it, whole: for everybody who loads models with that.

EXPORT_KEYS = {  # ours -> transformers' folder, by the published names
    "language_model.{}": "language_model.{}",
    "connector.0.{}": "multi_modal_projector.linear_1.{}",
    "connector.2.{}": "multi_modal_projector.linear_2.{}",
}
_TOWER = "vision_tower.vision_model."
_ROWS = 64  # the vocabulary becomes a multiple of it: room for <image>, as in the published folders
_TEXT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps"),
    *("rope_theta", "rope_scaling", "attention_bias", "head_dim"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)


def save_hub(
    folder: Path,
    parts: Mapping[str, nn.Module],
    *,
    original_config: Mapping[str, Any],
    image_tokens: int,
    vision_folder: Path,
    tokenizer: Path,
    dtype: torch.dtype,
) -> None:
    """Write a folder for `LlavaForConditionalGeneration`.

    Args:
        folder: loses the weights that it had.
        parts: `language_model` and `connector`.
        original_config: the authors' `config.json`.
        image_tokens: of one image.
        vision_folder: of CLIP; its tower is copied whole, with the layers that LLaVA leaves out.
        tokenizer: `tokenizer.model`.
        dtype: of the files.
    """
    vocab = int(original_config["vocab_size"])
    rows = -(-(vocab + 1) // _ROWS) * _ROWS
    weights = {}
    for part, module in parts.items():
        for name, value in module.state_dict().items():
            key = checkpoint.translate(f"{part}.{name}", EXPORT_KEYS)
            assert key is not None  # the table covers both parts
            if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                value = torch.cat([value[:vocab], value.new_zeros(rows - vocab, value.shape[1])])
            weights[key] = value
    weights |= {_TOWER + name: value for name, value in _tower(vision_folder)}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_tensors(folder, weights, shard_bytes=checkpoint.SHARD_BYTES, dtype=dtype)
    vision = checkpoint.read_json(vision_folder / "config.json")
    text = {key: original_config[key] for key in _TEXT if original_config.get(key) is not None}
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": vocab,
        "image_seq_length": image_tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": original_config["mm_vision_select_layer"],
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "text_config": {**text, "model_type": "llama", "vocab_size": rows},
        "vision_config": {
            **vision.get("vision_config", vision),
            "model_type": "clip_vision_model",
        },
    }
    write_text(folder / "config.json", json.dumps(config, indent=1))
    for path in [*tokenizer.parent.glob("*token*"), vision_folder / "preprocessor_config.json"]:
        if path.suffix in (".model", ".json") and path.is_file() and path.parent != folder:
            shutil.copyfile(path, folder / path.name)


def _tower(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The encoder's weights by their names inside it, from CLIP's folder or transformers'."""
    for path in checkpoint.weight_files(folder, what="vision"):
        for key, value in checkpoint.read_tensors(path):
            name = checkpoint.translate(key, CLIP_KEYS)
            if name is not None and not name.endswith("position_ids"):
                yield name, value.clone()
