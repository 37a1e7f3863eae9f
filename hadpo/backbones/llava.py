"""LLaVA-1.5: CLIP ViT (second last layer, without CLS) -> two-layer MLP -> Vicuna.

Source of prompts, keys and preprocessing: haotian-liu/LLaVA, conversation.py, clip_encoder.py,
mm_utils.py; HA-DPO trains with "user" and evaluates with "human" in the system sentence.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from hadpo.records import BadInput
from hadpo.vlm import checkpoint, decoder, export, fields
from hadpo.vlm.backbone import CONNECTOR_PART, LLAMA_13B, Backbone, ModelSizes, Variant
from hadpo.vlm.checkpoint import Files, Placement
from hadpo.vlm.prompt import LlamaTokenizer, Prompts, PromptTemplate
from hadpo.vlm.vision import CLIP_KEYS, ClipTower, Preprocessing, clip_ignored

# Prompts, byte by byte: conversation.py.
_IMAGE_LINE = "<image>\n"
_TURN = f"USER: {_IMAGE_LINE}{{instruction}} ASSISTANT:"
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
    image_part=_IMAGE_LINE,
)
_SHORT = PromptTemplate("<s>" + _TURN)
MINI = Prompts(train=_SHORT, evaluate=_SHORT, again=_AGAIN, image_part=_IMAGE_LINE)


VARIANTS = {
    "1.5-7b": Variant(
        prompts=VICUNA,
        source="liuhaotian/llava-v1.5-7b",
        sizes=ModelSizes(others=325_000_000, connector=20_979_712, image_tokens=576),
    ),
    "1.5-13b": Variant(
        prompts=VICUNA,
        source="liuhaotian/llava-v1.5-13b",
        sizes=ModelSizes(others=325_000_000, connector=31_467_520, image_tokens=576, **LLAMA_13B),
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
    **decoder.HUB_KEYS,
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
_TOWER_KEYS = {  # where a checkpoint keeps a tower of its own -> the tower's own names
    "model.vision_tower.vision_tower.vision_model.{}": "{}",
    **{key: name for key, name in CLIP_KEYS.items() if "vision_tower" in key},
}
_VOCABULARY: tuple[str, ...] = (
    "language_model.model.embed_tokens.weight",
    "language_model.lm_head.weight",
)
_EXPORT_TOWER = "vision_tower.vision_model."


class Llava(Backbone):
    """LLaVA-1.5 of any size; `from_original` fills it."""

    vision: ClipTower
    preprocessing: Preprocessing
    PARTS: ClassVar = PARTS
    HUB_KEYS: ClassVar = HUB_KEYS
    KEYS: ClassVar = KEYS
    CONNECTOR_KEYS: ClassVar = {"model.mm_projector.{}": "connector.{}"}
    CONNECTOR_FILE: ClassVar = "mm_projector.bin"  # as LLaVA's first stage writes it

    def __init__(
        self,
        name: str,
        *,
        vision_config: Mapping[str, Any],
        original_config: Mapping[str, Any],
        where: str,
        tower: str = "vision_config",
    ) -> None:
        language_model = decoder.build_llama(original_config, where=where)
        declared = VARIANTS[name.partition("/")[2]]
        super().__init__(name, declared, language_model, original_config)
        layer = original_config["mm_vision_select_layer"]
        self.vision = ClipTower(vision_config, layer, where=tower, chooser=where)
        width = language_model.config.hidden_size
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

    def save_transformers(self, folder: Path, *, dtype: torch.dtype) -> bool:
        """Write the whole model for `LlavaForConditionalGeneration`; it loads here, too.

        CLIP is copied whole, with the layers that LLaVA leaves out.
        """
        vocab = int(self.original_config["vocab_size"])
        weights = checkpoint.by_original_key(self.state_dict(), HUB_KEYS)
        weights |= {key: weights[key][:vocab] for key in _VOCABULARY}
        vision_folder = self.files["vision"]
        weights |= {_EXPORT_TOWER + name: value for name, value in _clip_weights(vision_folder)}
        tower = _vision_config(vision_folder)
        known = fields.table("clip_tower").keys() - {"architectures"}
        image_token = self.tokenizer.special_ids["<unk>"]  # see `export`
        pad = self.original_config.get("image_aspect_ratio")
        config = {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "image_token_index": image_token,
            "image_seq_length": self.num_image_tokens,
            "image_aspect_ratio": pad,  # read here; transformers goes by `do_pad`
            "projector_hidden_act": "gelu",
            "vision_feature_layer": self.original_config["mm_vision_select_layer"],
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": False,
            "text_config": decoder.text_config(self.language_model, vocab=vocab),
            "vision_config": {key: value for key, value in tower.items() if key in known}
            | {"model_type": "clip_vision_model"},
        }
        processor = {
            "processor_class": "LlavaProcessor",
            "image_token": export.IMAGE_TOKEN,
            "patch_size": self.vision.patch_size,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        }
        export.write_folder(folder, weights, config=config, beside=(), dtype=dtype)
        pixels = self.preprocessing.as_config("LlavaImageProcessor")
        export.write_processor(folder, pixels, processor, eos=self.end_id)
        own = {"image_token": export.IMAGE_TOKEN}
        export.write_tokenizer(
            folder, self.tokenizer, first="<s>", padding_side="left", extra_special_tokens=own
        )
        export.write_chat_template(folder, self.PROMPTS)
        return True

    def files_with(self, language_model: Path) -> dict[str, Path]:
        """Saved weights lie in the authors' layout, so the tower needs a place of its own."""
        return {"language_model": language_model, "vision": self.files["vision"]}


def from_original(
    files: Files, *, variant: str, quantization: str = "none", **to: Unpack[Placement]
) -> Llava:
    """LLaVA from the authors' files, or from a transformers LLaVA folder as `language_model`.

    Raises:
        BadInput: a part is missing, or its files are broken or do not fit.
    """
    name = f"llava/{variant}"
    needed = {"language_model": PARTS["language_model"]}
    folder = checkpoint.locate_parts(name, files, needed)["language_model"]
    where = str(folder / "config.json")
    config = checkpoint.read_json(folder / "config.json")
    is_hub = "text_config" in config
    if not is_hub:
        _check_original(config, where)
    fields.check(config, "llava_hub" if is_hub else "llava", where=where)
    places = {"vision": folder, **files} if is_hub else files
    vision_folder = checkpoint.locate_parts(name, places, {"vision": PARTS["vision"]})["vision"]
    vision_config = _vision_config(vision_folder)
    tokenizer = LlamaTokenizer(folder)
    if is_hub:
        config = _as_original_config(config, vision_config, tokenizer.vocab_size)

    place = {"where": where, "tower": str(vision_folder / "config.json")}
    backbone = Llava(name, vision_config=vision_config, original_config=config, **place)
    wanted = backbone.declared.sizes.width
    decoder.check_width(backbone.language_model, wanted, folder=folder, name=name)
    tokenizer.check_rows(backbone.embedding.num_embeddings, where=where)
    if not tokenizer.splits_at_blanks:
        raise BadInput(f"{tokenizer.path}: pieces run over blanks; no LLaMA tokenizer does")
    backbone.tokenizer = tokenizer
    backbone.files = {"language_model": folder, "vision": vision_folder}
    backbone.preprocessing = Preprocessing.read(
        vision_folder,
        image_size=backbone.vision.image_size,
        pad=config.get("image_aspect_ratio") == "pad",
    )

    checkpoint.quantise(backbone.language_model, quantization, dtype=to["dtype"])
    rows = backbone.embedding.num_embeddings
    sources = checkpoint.weight_files(folder, what="language_model")
    checkpoint.fill(
        nn.ModuleDict({"language_model": backbone.language_model, "connector": backbone.connector}),
        sources,
        keys=HUB_KEYS if is_hub else KEYS,
        ignored=HUB_IGNORED if is_hub else IGNORED,
        **to,
        changes=dict.fromkeys(_VOCABULARY, lambda table: table[:rows]) if is_hub else {},
    )
    checkpoint.fill(
        backbone.vision,
        checkpoint.weight_files(vision_folder, what="vision"),
        keys=CLIP_KEYS,
        ignored=clip_ignored(backbone.vision),
        **to,
    )
    if vision_folder != folder:
        _check_tower(backbone, config, sources)
    return backbone


def _check_original(config: Mapping[str, Any], where: str) -> None:
    """Refuse a config.json that is no LLaVA-1.5's: a setting that this file does not implement."""
    if "mm_projector_type" not in config or "mm_vision_select_layer" not in config:
        kind = config.get("model_type")
        raise BadInput(
            f"{where}: no LLaVA (model_type {kind!r}, no mm_projector_type); expected a folder as "
            "liuhaotian/llava-v1.5-7b, or transformers' with text_config"
        )


def _vision_config(folder: Path) -> dict[str, Any]:
    """The tower's fields, of CLIP's folder or of transformers' LLaVA folder."""
    path = folder / "config.json"
    config = checkpoint.read_json(path)
    is_llava = config.get("model_type") == "llava"
    fields.check(config, "llava_hub" if is_llava else "clip", where=path)
    return fields.clip_section(config, where=path)


def _check_tower(backbone: Llava, config: Mapping[str, Any], sources: Sequence[Path]) -> None:
    """Refuse a checkpoint that holds another vision tower than that of the part vision."""
    folder = backbone.files["vision"]
    own = dict(_clip_weights(folder))
    used = {name: own[name] for name in backbone.vision.state_dict() if name in own}
    compared = checkpoint.compare_part(sources, used, keys=_TOWER_KEYS, part="vision", named=folder)
    if config.get("unfreeze_mm_vision_tower") and not compared:
        raise BadInput(
            f"{sources[0].parent / 'config.json'}: unfreeze_mm_vision_tower is true, but the "
            "weights hold no vision_tower: this LLaVA was trained with its own tower; download all "
            "its files"
        )
    # What is saved holds no tower: the part vision is it.
    backbone.original_config["unfreeze_mm_vision_tower"] = False


def _as_original_config(
    config: Mapping[str, Any], vision: Mapping[str, Any], pieces: int
) -> dict[str, Any]:
    """The authors' `config.json` of a transformers LLaVA folder.

    Transformers adds rows to the vocabulary (an image token, padding); the originals have none, and
    extra rows would change the softmax, so only the tokenizer's own rows are kept.
    """
    text = decoder.HUB_TEXT_DEFAULTS | dict(config["text_config"])
    return {
        **text,
        "vocab_size": min(text["vocab_size"], pieces),
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_hidden_size": vision.get("hidden_size", 768),
        "mm_vision_select_layer": config.get("vision_feature_layer", -2),
        "mm_projector_type": "mlp2x_gelu",
        "image_aspect_ratio": config.get("image_aspect_ratio", "pad"),
    }


def _clip_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The encoder's weights by their names inside it, from CLIP's folder or transformers'."""
    for path in checkpoint.weight_files(folder, what="vision"):
        for key, value in checkpoint.read_tensors(path):
            name = checkpoint.translate(key, CLIP_KEYS)
            if name is not None and not name.endswith("position_ids"):
                yield name, value.clone()
