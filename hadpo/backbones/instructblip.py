"""InstructBLIP: EVA ViT-g -> Q-Former that reads the instruction -> one linear layer -> Vicuna.

Source of prompts, keys and preprocessing: salesforce/LAVIS, blip2_vicuna_instruct.py, blip2.py,
blip_processors.py; HA-DPO's copy trains and evaluates it with the bare instruction. Transformers
publishes it as one folder with all parts under other names, which is read too.

The originals add a row [PAD] to the vocabulary: random numbers whose logit is part of the softmax.
It is left out here, unless `llm_pad_rows.safetensors` beside the Q-Former's file brings the row.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hadpo.records import BadInput
from hadpo.vlm import checkpoint, decoder, export, fields
from hadpo.vlm.backbone import CONNECTOR_PART, LLAMA_13B, ModelSizes, Variant, right_padded
from hadpo.vlm.checkpoint import Files, Placement
from hadpo.vlm.decoder import LlamaFolder
from hadpo.vlm.prompt import Prompts, PromptTemplate
from hadpo.vlm.qformer import (
    EvaBackbone,
    QFormer,
    QFormerSizes,
    WordPieces,
    qformer_ignored,
    qformer_keys,
)
from hadpo.vlm.vision import EvaSizes, Preprocessing, compare_eva, fill_eva

# The picture comes first; the original sets the begin marker to </s>, id 2. No template at all.
_BARE = PromptTemplate("<image></s>{instruction}")
_MOST = 128  # ids of a training prompt, </s> included: max_txt_len; a long one keeps its end
VARIANTS = {
    "vicuna7b": Variant(
        prompts=Prompts(train=_BARE, evaluate=_BARE),
        source="lmsys/vicuna-7b-v1.1 and instruct_blip_vicuna7b_trimmed.pth",
        sizes=ModelSizes(others=1_175_000_000, connector=3_149_824, image_tokens=32),
    ),
    "vicuna13b": Variant(
        prompts=Prompts(train=_BARE, evaluate=_BARE),
        source="lmsys/vicuna-13b-v1.1 and instruct_blip_vicuna13b_trimmed.pth",
        sizes=ModelSizes(others=1_175_000_000, connector=3_937_280, image_tokens=32, **LLAMA_13B),
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
_HUB_WORDS = "qformer_tokenizer"  # folder of BERT's words inside transformers' folder
PAD_ROWS = "llm_pad_rows.safetensors"

IGNORED = {
    "visual_encoder.{}": "read as the part vision",
    "llm_model.{}": "read as the part language_model",
}
_HUB_OTHERS = {
    "query_tokens": "connector.query_tokens",
    "qformer.{}": "connector.transformer.{}",
    "language_projection.{}": "connector.projection.{}",
    "vision_model.post_layernorm.{}": "vision.ln_vision.{}",
    "vision_model.{}": "vision.{}",
}
HUB_KEYS = {  # transformers' folder, as it was published and as transformers 5 saves it -> ours
    **decoder.HUB_KEYS,
    **_HUB_OTHERS,
    **{f"model.{key}": name for key, name in _HUB_OTHERS.items()},
}
_HUB_IGNORED = {
    "{}inv_freq": "rotary tables are computed in float32",
    "{}position_ids": "positions are counted, not stored",
}
_HUB_EVA_SIZES = {  # `vision_config` -> ours
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
}
_HUB_QFORMER_SIZES = {  # `qformer_config` -> ours
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "cross_attention_frequency": "cross_every",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "positions",
}


class InstructBlip(EvaBackbone):
    """InstructBLIP with Vicuna of any size; `from_original` fills it."""

    connector: Any  # a QFormer
    word_pieces: WordPieces
    PARTS: ClassVar = PARTS
    HUB_KEYS: ClassVar = HUB_KEYS
    CONNECTOR_KEYS: ClassVar = {"llm_proj.{}": "connector.projection.{}"}
    image_tokens_depend_on_instruction: ClassVar[bool] = True

    def __init__(
        self, name: str, llama: LlamaFolder, *, eva: EvaSizes, qformer: QFormerSizes
    ) -> None:
        super().__init__(name, VARIANTS[name.partition("/")[2]], llama, eva=eva)
        self.connector = QFormer(
            qformer, features=eva.width, width=llama.model.config.hidden_size, reads_text=True
        )
        self.num_image_tokens = qformer.queries
        self.rows_in_softmax = llama.tokenizer.vocab_size

    @property
    def lm_head_weight(self) -> Float[Tensor, "vocab width"]:
        """The tokenizer's own rows, and [PAD] only if its row was given."""
        return super().lm_head_weight[: self.rows_in_softmax]

    @property
    def text_files(self) -> list[Path]:
        """LLaMA's tokenizer, and BERT's for the Q-Former."""
        return [self.tokenizer.path, self.word_pieces.path]

    def connect(
        self, features: Float[Tensor, "images positions features"], instructions: Sequence[str]
    ) -> Float[Tensor, "images tokens width"]:
        """What the queries found with the instruction beside them; one instruction per row."""
        if len(instructions) != len(features):
            raise ValueError(f"{len(features)} images need as many instructions")
        rows = [self.word_pieces.encode(instruction) for instruction in instructions]
        text, lengths = right_padded(rows), torch.tensor([len(row) for row in rows])
        is_text = torch.arange(text.shape[1]) < lengths[:, None]
        words = decoder.on_device({"text": text, "is_text": is_text}, features.device)
        return self.connector(features, **words)

    def save_transformers(self, folder: Path, *, dtype: torch.dtype) -> bool:
        """Write the whole model for `InstructBlipForConditionalGeneration`; it loads here, too.

        There the norm behind the encoder has 1e-6 for LAVIS' 1e-5, as in the published folders.
        """
        weights = checkpoint.by_original_key(self.state_dict(), HUB_KEYS)
        for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            weights[key] = weights[key][: self.rows_in_softmax]
        eva, qformer = self.vision.sizes, self.connector.sizes
        text = decoder.text_config(self.language_model, vocab=self.rows_in_softmax)
        config = {
            "architectures": ["InstructBlipForConditionalGeneration"],
            "model_type": "instructblip",
            "num_query_tokens": qformer.queries,
            "image_token_index": self.tokenizer.special_ids["<unk>"],  # see `export`
            "rows_in_softmax": self.rows_in_softmax,  # read here
            "tie_word_embeddings": False,
            "text_config": text | {"bos_token_id": self.end_id, "eos_token_id": self.end_id},
            "vision_config": {key: getattr(eva, own) for key, own in _HUB_EVA_SIZES.items()}
            | {"model_type": "instructblip_vision_model", "hidden_act": "gelu", "qkv_bias": True},
            "qformer_config": {
                key: getattr(qformer, own) for key, own in _HUB_QFORMER_SIZES.items()
            }
            | {"model_type": "instructblip_qformer", "encoder_hidden_size": eva.width},
        }
        export.write_folder(folder, weights, config=config, beside=(), dtype=dtype)
        pixels = self.vision.preprocess.as_config("BlipImageProcessor")
        kind = {"processor_class": "InstructBlipProcessor", "num_query_tokens": qformer.queries}
        export.write_processor(folder, pixels, kind, eos=self.end_id)
        export.write_tokenizer(folder, self.tokenizer, first="</s>", padding_side="left")
        self.word_pieces.save(folder / _HUB_WORDS)
        return True

    def prompt_ids(self, instruction: str, *, prompt: Literal["train", "evaluate"]) -> list[int]:
        """`IMAGE`, </s>, the instruction; in training a long instruction keeps its end."""
        ids = super().prompt_ids(instruction, prompt=prompt)
        if prompt == "train":  # the image and </s> stay
            return [*ids[:2], *ids[2:][-(_MOST - 1) :]]
        return ids


def from_original(
    files: Files, *, variant: str, quantization: str = "none", **to: Unpack[Placement]
) -> InstructBlip:
    """InstructBLIP from the authors' files, or from a transformers folder as `language_model`.

    Raises:
        BadInput: a part is missing, or its files are broken or do not fit.
    """
    name = f"instructblip/{variant}"
    places: dict[str, str | Path] = dict(files)
    if "language_model" in files:
        folder = checkpoint.locate(files["language_model"], what="language_model")
        if is_hub(folder):
            places = {"qformer": folder, "bert": folder / _HUB_WORDS} | places
    if "qformer" in places and is_hub(checkpoint.locate(places["qformer"], what="qformer")):
        places.setdefault("vision", places["qformer"])
    needed = {part: meaning for part, meaning in PARTS.items() if part != "connector"}
    paths = checkpoint.locate_parts(name, places, needed)
    folder, source, tower = (paths[part] for part in ("language_model", "qformer", "vision"))
    if is_hub(source):
        eva, sizes = _hub_sizes(source)
    else:
        source = checkpoint.find_weights(source, what="qformer")
        tower = checkpoint.find_weights(tower, what="vision")
        eva = checkpoint.read_sizes(tower, EvaSizes)
        sizes = checkpoint.read_sizes(source, QFormerSizes)
    llama = _open_hub(folder) if is_hub(folder) else LlamaFolder.open(folder)
    backbone = InstructBlip(name, llama, eva=eva, qformer=sizes)
    backbone.files = paths
    backbone.word_pieces = WordPieces(paths["bert"])
    if backbone.word_pieces.vocab_size != sizes.vocab_size:
        raise BadInput(
            f"{backbone.word_pieces.path}: {backbone.word_pieces.vocab_size} pieces with [DEC], "
            f"but the Q-Former knows {sizes.vocab_size}; they are of different models"
        )
    checkpoint.quantise(backbone.language_model, quantization, dtype=to["dtype"])
    if is_hub(folder):
        _fill_from_hub(backbone, folder, ("language_model",), **to)
        rows = checkpoint.read_json(folder / "config.json").get("rows_in_softmax")
        backbone.rows_in_softmax = rows or backbone.rows_in_softmax
    else:
        decoder.fill_llama(backbone.language_model, folder, **to)
    if is_hub(source):
        size = backbone.vision.sizes.image_size
        backbone.vision.preprocess = Preprocessing.read(source, image_size=size, squash=True)
        _fill_from_hub(backbone, source, ("vision", "connector"), **to)
        return backbone
    fill_eva(backbone.vision, tower, **to)
    checkpoint.fill(
        nn.ModuleDict({"connector": backbone.connector, "ln_vision": backbone.vision.ln_vision}),
        [source],
        keys=keys(sizes),
        ignored=IGNORED | qformer_ignored(sizes, reads_text=True),
        **to,
    )
    compare_eva(tower, [source])
    if (source.parent / PAD_ROWS).is_file():
        _add_pad_rows(backbone, source.parent / PAD_ROWS)
    return backbone


def keys(sizes: QFormerSizes) -> dict[str, str]:
    """Keys of the trimmed file -> ours."""
    return qformer_keys(sizes, reads_text=True, projection="llm_proj")


def _add_pad_rows(backbone: InstructBlip, path: Path) -> None:
    """Put the rows of [PAD] behind the vocabulary, in the softmax too."""
    weights = dict(checkpoint.read_tensors(path))
    layers = {
        "model.embed_tokens.weight": backbone.embedding,
        "lm_head.weight": backbone.language_model.lm_head,
    }
    rows = len(backbone.embedding.weight)
    expected = {f"{name}.row{rows}" for name in layers}
    if set(weights) != expected:
        raise BadInput(f"{path}: found {sorted(weights)}, expected {sorted(expected)}")
    for name, layer in layers.items():
        row = weights[f"{name}.row{rows}"].to(layer.weight)
        if row.shape != (1, layer.weight.shape[1]):
            raise BadInput(
                f"{path}: {name}.row{rows} has shape {list(row.shape)}, expected one row"
            )
        layer.weight = checkpoint.frozen(torch.cat([layer.weight, row]))
    backbone.rows_in_softmax = rows + 1


def is_hub(folder: Path) -> bool:
    """Whether this is transformers' folder of a whole InstructBLIP."""
    path = folder / "config.json"
    return path.is_file() and "qformer_config" in checkpoint.read_json(path)


def _hub_config(folder: Path) -> dict[str, Any]:
    config = checkpoint.read_json(folder / "config.json")
    fields.check(config, "instructblip_hub", where=folder / "config.json")
    return config


def _open_hub(folder: Path) -> LlamaFolder:
    """The language model's config and tokenizer; BadInput if it is no LLaMA."""
    text = _hub_config(folder).get("text_config", {})
    if "model_type" not in text:  # then transformers takes it for an OPT
        raise BadInput(
            f"{folder}/config.json: no text_config.model_type; expected that of a Vicuna"
        )
    return LlamaFolder.open(folder, decoder.HUB_TEXT_DEFAULTS | text)


def _hub_sizes(folder: Path) -> tuple[EvaSizes, QFormerSizes]:
    """Sizes of encoder and Q-Former."""
    config = _hub_config(folder)
    eva, qformer = config.get("vision_config", {}), config["qformer_config"]
    sizes = {"vocab_size": 30522}  # transformers' default, which it leaves out of the file
    sizes |= {own: qformer[key] for key, own in _HUB_QFORMER_SIZES.items() if key in qformer}
    if "num_query_tokens" in config:
        sizes["queries"] = config["num_query_tokens"]
    return (
        EvaSizes(**{own: eva[key] for key, own in _HUB_EVA_SIZES.items() if key in eva}),
        QFormerSizes(**sizes),
    )


def _fill_from_hub(
    backbone: InstructBlip, folder: Path, parts: Sequence[str], **to: Unpack[Placement]
) -> None:
    """Fill some parts of the backbone; the folder's other weights are left out."""
    table = {key: name for key, name in HUB_KEYS.items() if name.partition(".")[0] in parts}
    others = {key: "of another part" for key in HUB_KEYS if key not in table}
    checkpoint.fill(
        nn.ModuleDict({part: getattr(backbone, part) for part in parts}),
        checkpoint.weight_files(folder, what="language_model"),
        keys=table,
        ignored=others | _HUB_IGNORED,
        **to,
    )
