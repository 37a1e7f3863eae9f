"""InstructBLIP: EVA ViT-g -> Q-Former that reads the instruction -> one linear layer -> Vicuna.

Source of prompts, keys and preprocessing: salesforce/LAVIS, blip2_vicuna_instruct.py, blip2.py,
blip_processors.py; HA-DPO's copy trains and evaluates it with the bare instruction.

The originals add a row [PAD] to the vocabulary: random numbers whose logit is part of the softmax.
It is left out here, unless `llm_pad_rows.safetensors` beside the Q-Former's file brings the row.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import LlamaConfig

from hadpo.records import BadInput
from hadpo.vlm import checkpoint
from hadpo.vlm.backbone import (
    CONNECTOR_PART,
    LLAMA_13B,
    Backbone,
    ModelSizes,
    Variant,
    choose_device,
    choose_dtype,
    replace_connector,
    right_padded,
)
from hadpo.vlm.checkpoint import LlamaFolder, locate
from hadpo.vlm.prompt import Prompts, PromptTemplate
from hadpo.vlm.qformer import QFormer, QFormerSizes, WordPieces, qformer_ignored, qformer_keys
from hadpo.vlm.vision import EvaSizes, EvaTower, fill_eva

# InstructBLIP as transformers publishes it: one folder with all parts under other names.

_EVA_SIZES = {  # `vision_config` -> ours
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
}
_QFORMER_SIZES = {  # `qformer_config` -> ours
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "cross_attention_frequency": "cross_every",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "positions",
}
# Published files have no prefix and a head inside the language model; transformers 5 saves both so
# or with "model." in front and the head outside.
LANGUAGE_KEYS = {
    "language_model.model.{}": "model.{}",
    "language_model.lm_head.weight": "lm_head.weight",
    "model.language_model.{}": "model.{}",
    "lm_head.weight": "lm_head.weight",
}
_KEYS = {
    "query_tokens": "connector.query_tokens",
    "qformer.{}": "connector.transformer.{}",
    "language_projection.{}": "connector.projection.{}",
    "vision_model.post_layernorm.{}": "vision.ln_vision.{}",
    "vision_model.{}": "vision.{}",
}
HUB_KEYS = _KEYS | {f"model.{theirs}": ours for theirs, ours in _KEYS.items()}
_STORED = {
    "{}inv_freq": "rotary tables are computed in float32",
    "{}position_ids": "positions are counted, not stored",
}
_LANGUAGE = "read as the part language_model"
_OTHERS = "read as the parts vision and qformer"


def is_hub(folder: Path) -> bool:
    """Whether this is transformers' folder of a whole InstructBLIP."""
    path = folder / "config.json"
    return path.is_file() and "qformer_config" in checkpoint.read_json(path)


def open_llama(folder: Path) -> LlamaFolder:
    """The language model's config and tokenizer; BadInput where it is no LLaMA."""
    config = checkpoint.read_json(folder / "config.json")
    text = {key: value for key, value in config.get("text_config", {}).items() if key != "dtype"}
    if text.get("model_type") != "llama":
        kind = text.get("model_type")
        raise BadInput(f"{folder}/config.json: text_config is of {kind!r}, expected a Vicuna")
    # transformers leaves out of the file what is LLaMA's default
    return LlamaFolder.of(folder, LlamaConfig(**text).to_dict())


def hub_sizes(folder: Path) -> tuple[EvaSizes, QFormerSizes]:
    """Sizes of encoder and Q-Former."""
    config = checkpoint.read_json(folder / "config.json")
    queries = {"queries": config["num_query_tokens"]} if "num_query_tokens" in config else {}
    eva = _renamed(config.get("vision_config", {}), _EVA_SIZES)
    default = {"vocab_size": 30522}  # transformers', which it leaves out of the file
    qformer = _renamed(default | config["qformer_config"], _QFORMER_SIZES)
    return EvaSizes(**eva), QFormerSizes(**qformer, **queries)


def fill_language(
    model: nn.Module, folder: Path, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Fill the language model."""
    others = {key: _OTHERS for key in HUB_KEYS if key not in LANGUAGE_KEYS}
    _fill(model, folder, LANGUAGE_KEYS, others, dtype=dtype, device=device)


def fill_others(
    parts: Mapping[str, nn.Module], folder: Path, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Fill `vision` and `connector`."""
    others = dict.fromkeys(LANGUAGE_KEYS, _LANGUAGE)
    _fill(nn.ModuleDict(dict(parts)), folder, HUB_KEYS, others, dtype=dtype, device=device)


def _fill(
    module: nn.Module,
    folder: Path,
    keys: Mapping[str, str],
    others: Mapping[str, str],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    checkpoint.fill(
        module,
        checkpoint.weight_files(folder, what="language_model"),
        keys=keys,
        ignored={**others, **_STORED},
        dtype=dtype,
        device=device,
    )


def _renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, int]:
    return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}


# The picture comes first; the original sets the begin marker to </s>, id 2. No template at all.
_BARE = PromptTemplate("<image></s>{instruction}")
_MOST = 128  # ids of a training prompt, </s> included: max_txt_len; a long one keeps its end


VARIANTS = {
    "vicuna7b": Variant(
        prompts=Prompts(train=_BARE, evaluate=_BARE),
        source="lmsys/vicuna-7b-v1.1 and instruct_blip_vicuna7b_trimmed.pth",
        sizes=ModelSizes(others=1_175_000_000, image_tokens=32),
    ),
    "vicuna13b": Variant(
        prompts=Prompts(train=_BARE, evaluate=_BARE),
        source="lmsys/vicuna-13b-v1.1 and instruct_blip_vicuna13b_trimmed.pth",
        sizes=ModelSizes(others=1_175_000_000, image_tokens=32, **LLAMA_13B),
    ),
}
PARTS = {
    "language_model": "folder of Vicuna v1.1, or transformers' InstructBLIP folder",
    "vision": "eva_vit_g.pth of LAVIS; not needed beside transformers' folder",
    "qformer": "instruct_blip_vicuna*_trimmed.pth; not needed beside transformers' folder",
    "bert": "folder with vocab.txt of bert-base-uncased; transformers' folder has its own",
    "connector": CONNECTOR_PART,
}
OPTIONAL_PARTS = ("vision", "qformer", "bert", "connector")  # a recipe may do without
PAD_ROWS = "llm_pad_rows.safetensors"

IGNORED = {
    "visual_encoder.{}": "read as the part vision",
    "llm_model.{}": "read as the part language_model",
}


class InstructBlip(Backbone):
    """InstructBLIP with Vicuna of any size; `from_original` fills it."""

    vision: EvaTower
    connector: Any  # a QFormer
    word_pieces: WordPieces
    PARTS: ClassVar = PARTS
    CONNECTOR_KEYS: ClassVar = {"llm_proj.{}": "connector.projection.{}"}
    image_tokens_depend_on_instruction: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        llama: LlamaFolder,
        *,
        eva: EvaSizes,
        qformer: QFormerSizes,
    ) -> None:
        super().__init__()
        self.name = name
        llama.check_width(VARIANTS[self.variant].sizes.width, name=name)
        self.PROMPTS = VARIANTS[self.variant].prompts
        self.original_config = llama.config
        self.language_model = llama.model
        self.tokenizer = llama.tokenizer
        self.vision = EvaTower(eva)
        self.connector = QFormer(
            qformer, features=eva.width, width=llama.model.config.hidden_size, reads_text=True
        )
        self.num_image_tokens = qformer.queries
        self.rows_in_softmax = llama.tokenizer.vocab_size

    @property
    def lm_head_weight(self) -> Float[Tensor, "vocab width"]:
        """The tokenizer's own rows, and [PAD] only where its row was given."""
        return self._head_weight[: self.rows_in_softmax]

    @property
    def text_files(self) -> list[Path]:
        """LLaMA's tokenizer, and BERT's for the Q-Former."""
        return [self.tokenizer.path, self.word_pieces.path]

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 side side"]:
        """Squeeze to a square and normalise."""
        return self.vision.preprocess(image)

    def features(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images positions features"]:
        """States of all positions behind `ln_vision`, CLS first."""
        return self.vision.ln_vision(self.vision(pixels))

    def connect(
        self, features: Float[Tensor, "images positions features"], instructions: Sequence[str]
    ) -> Float[Tensor, "images tokens width"]:
        """What the queries found with the instruction beside them; one instruction per row."""
        if len(instructions) != len(features):
            raise ValueError(f"{len(features)} images need as many instructions")
        rows = [self.word_pieces.encode(instruction) for instruction in instructions]
        text = right_padded(rows).to(features.device)
        lengths = torch.tensor([len(row) for row in rows], device=features.device)
        is_text = torch.arange(text.shape[1], device=features.device) < lengths[:, None]
        return self.connector(features, text, is_text)

    def prompt_ids(self, instruction: str, *, prompt: Literal["train", "evaluate"]) -> list[int]:
        """`IMAGE`, </s>, the instruction; in training a long instruction keeps its end."""
        ids = super().prompt_ids(instruction, prompt=prompt)
        if prompt == "train":  # the image and </s> stay
            return [*ids[:2], *ids[2:][-(_MOST - 1) :]]
        return ids

    def save_original(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write the Vicuna folder, without a [PAD] row; the other parts stay where they are."""
        checkpoint.save_llama(
            folder,
            self.language_model,
            config=self.original_config,
            tokenizer=self.tokenizer,
            dtype=dtype,
        )


def from_original(
    files: Mapping[str, str | Path],
    *,
    variant: str,
    dtype: str = "auto",
    device: str = "auto",
    quantization: str = "none",
) -> InstructBlip:
    """InstructBLIP from the authors' files, or from a transformers folder as `language_model`.

    `files` are the parts that `PARTS` names; the other arguments are those of `backbones.load`.

    Raises:
        BadInput: a part is missing, or its files are broken or do not fit.
    """
    name = f"instructblip/{variant}"
    given = dict(files)
    if "language_model" in given:
        folder = locate(given["language_model"], what="language_model")
        if is_hub(folder):  # it holds everything
            given = {"qformer": folder, "bert": folder / "qformer_tokenizer"} | given
    if "qformer" in given and is_hub(locate(given["qformer"], what="qformer")):
        given.setdefault("vision", given["qformer"])
    needed = [part for part in PARTS if part != "connector"]
    missing = [f"{part}: {PARTS[part]}" for part in needed if part not in given]
    if missing:
        raise BadInput(f"{name}: files need " + "; ".join(missing))
    places = {part: locate(given[part], what=part) for part in needed}
    place = choose_device(device)
    numbers = choose_dtype(dtype, place, quantization)
    backbone = _with_weights(name, places, quantization, dtype=numbers, device=place)
    backbone.files = places
    backbone.word_pieces = WordPieces(places["bert"])
    rows = backbone.connector.sizes.vocab_size
    if backbone.word_pieces.vocab_size != rows:
        raise BadInput(
            f"{backbone.word_pieces.path}: {backbone.word_pieces.vocab_size} pieces with [DEC], "
            f"but the Q-Former knows {rows}; they are of different models"
        )
    replace_connector(backbone, files)
    return backbone.to(place).eval()


def _with_weights(
    name: str,
    places: Mapping[str, Path],
    quantization: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> InstructBlip:
    folder, source = places["language_model"], places["qformer"]
    is_llama_in_hub = is_hub(folder)
    llama = open_llama(folder) if is_llama_in_hub else LlamaFolder.open(folder)
    if is_hub(source):
        eva, qformer = hub_sizes(source)
        backbone = InstructBlip(name, llama, eva=eva, qformer=qformer)
        parts = {"vision": backbone.vision, "connector": backbone.connector}
        fill_others(parts, source, dtype=dtype, device=device)
    else:
        source = checkpoint.find_weights(source, what="qformer")
        tower = checkpoint.find_weights(places["vision"], what="vision")
        eva = checkpoint.read_sizes(tower, EvaSizes)
        qformer = checkpoint.read_sizes(source, QFormerSizes)
        backbone = InstructBlip(name, llama, eva=eva, qformer=qformer)
        fill_eva(backbone.vision, tower, dtype=dtype, device=device)
        checkpoint.fill(
            nn.ModuleDict(
                {"connector": backbone.connector, "ln_vision": backbone.vision.ln_vision}
            ),
            [source],
            keys=keys(qformer),
            ignored=IGNORED | qformer_ignored(qformer, reads_text=True),
            dtype=dtype,
            device=device,
        )
    checkpoint.quantise(backbone.language_model, quantization, dtype=dtype)
    fill = fill_language if is_llama_in_hub else checkpoint.fill_llama
    fill(backbone.language_model, folder, dtype=dtype, device=device)
    pad_rows = source.parent / PAD_ROWS
    if source.is_file() and pad_rows.is_file():
        _add_pad_rows(backbone, pad_rows)
    return backbone


def keys(sizes: QFormerSizes) -> dict[str, str]:
    """Keys of the trimmed file -> ours."""
    inner = qformer_keys(sizes, reads_text=True)
    return {
        "ln_vision.{}": "ln_vision.{}",
        "llm_proj.{}": "connector.projection.{}",
        **{theirs: f"connector.{ours}" for theirs, ours in inner.items()},
    }


def _add_pad_rows(backbone: InstructBlip, path: Path) -> None:
    """Put the rows of [PAD] behind the vocabulary, in the softmax too."""
    found = dict(checkpoint.read_tensors(path))
    layers = {
        "model.embed_tokens.weight": backbone.embedding,
        "lm_head.weight": backbone.language_model.lm_head,
    }
    rows = len(backbone.embedding.weight)
    expected = {f"{name}.row{rows}" for name in layers}
    if set(found) != expected:
        raise BadInput(f"{path}: found {sorted(found)}, expected {sorted(expected)}")
    for name, layer in layers.items():
        row = found[f"{name}.row{rows}"].to(layer.weight)
        if row.shape != (1, layer.weight.shape[1]):
            raise BadInput(
                f"{path}: {name}.row{rows} has shape {list(row.shape)}, expected one row"
            )
        layer.weight = nn.Parameter(torch.cat([layer.weight, row]), requires_grad=False)
    backbone.rows_in_softmax = rows + 1
