"""mPLUG-Owl: ViT-L -> abstractor (64 queries and an end mark) -> LLaMA; LRV-Instruction V2's base.

Source of prompts, keys and preprocessing: X-PLUG/mPLUG-Owl, modeling_mplug_owl.py,
processing_mplug_owl.py, xgpt3_dataset.py; FuxiaoLiu/LRV-Instruction, utils/inference.py.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hadpo.backbones import (
    _checkpoint,
    _connector,
    _llama,
    _owl_abstractor,
    _owl_vision,
    _quantised,
)
from hadpo.backbones._base import Backbone, choose_device, choose_dtype
from hadpo.backbones._hub import locate
from hadpo.backbones._kv import KVState
from hadpo.backbones._pixels import Preprocessing
from hadpo.backbones._prompt import IMAGE, Prompts, PromptTemplate
from hadpo.backbones._tokenizer import LlamaTokenizer
from hadpo.records import BadInput, write_text

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
)
_LRV = Prompts(  # without the blank behind "AI:" that the model was trained on
    train=_TRAIN,
    evaluate=PromptTemplate(_SYSTEM_LRV + _IMAGE_LINE + "\nHuman: {instruction}\nAI:"),
    again=PromptTemplate("\nHuman: {instruction}\nAI:"),
    again_image=PromptTemplate(_IMAGE_LINE + "\nHuman: {instruction}\nAI:"),
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs; all sizes stand in config.json."""

    prompts: Prompts
    source: str


VARIANTS = {
    "llama-7b": Variant(prompts=_OWL, source="MAGAer13/mplug-owl-llama-7b-ft"),
    "lrv-v2": Variant(prompts=_LRV, source="MAGAer13/mplug-owl-llama-7b-ft and LRV V2's adapter"),
}
PARTS = {
    "language_model": "folder of mPLUG-Owl (authors' layout; it holds the whole model)",
    "connector": _connector.PART,
}
OPTIONAL_PARTS = ("connector",)  # a recipe may do without

KEYS = {  # authors' folder -> ours
    **{f"vision_model.{old}": f"vision.{new}" for old, new in _owl_vision.KEYS.items()},
    **{old: f"connector.{new}" for old, new in _owl_abstractor.KEYS.items()},
    "language_model.{}": "language_model.{}",
}
IGNORED = {f"language_model.{key}": why for key, why in _llama.STORED_TABLES.items()}
_MLP_KEY = "abstractor.encoder.layers.0.crossattention.output.mlp.w1.weight"


class MplugOwl(Backbone):
    """mPLUG-Owl for pictures; `from_original` fills it."""

    vision: _owl_vision.OwlVision
    preprocessing: Preprocessing
    PARTS: ClassVar = PARTS
    CONNECTOR_KEYS: ClassVar = {k: f"connector.{ours}" for k, ours in _owl_abstractor.KEYS.items()}

    def __init__(self, name: str, *, original_config: Mapping[str, Any], where: str) -> None:
        super().__init__()
        _check_config(original_config, where)
        self.name = name
        self.PROMPTS = VARIANTS[self.variant].prompts
        self.original_config = dict(original_config)
        self.language_model = _llama.build(original_config["text_config"], where=where)
        self.vision = _owl_vision.OwlVision(original_config["vision_config"])
        self.connector = _owl_abstractor.Abstractor(
            original_config["visual_abstractor_config"],
            num_queries=original_config["num_query_tokens"],
            width=self.language_model.config.hidden_size,
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

    def save_original(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write config, tokenizer and all weights as the authors do; the folder is complete."""
        weights = {}
        for key, value in self.state_dict().items():
            names = (_checkpoint.translate_back(key, k, t) for k, t in KEYS.items())
            weights[next(filter(None, names))] = value
        shard_bytes = _checkpoint.SHARD_BYTES
        _checkpoint.write_tensors(folder, weights, shard_bytes=shard_bytes, dtype=dtype)
        config = self.original_config | {"torch_dtype": str(dtype).removeprefix("torch.")}
        write_text(folder / "config.json", json.dumps(config, indent=1))
        source = self.tokenizer.path.parent
        if source != folder:
            for path in [*source.glob("*token*"), source / "preprocessor_config.json"]:
                if path.suffix in (".model", ".json") and path.is_file():
                    shutil.copyfile(path, folder / path.name)

    def files_with(self, language_model: Path) -> dict[str, Path]:
        """The saved folder is complete, a finetuned connector included."""
        return {"language_model": language_model}


def from_original(
    files: Mapping[str, str | Path],
    *,
    variant: str,
    dtype: str = "auto",
    device: str = "auto",
    quantization: str = "none",
) -> MplugOwl:
    """mPLUG-Owl from the authors' folder.

    `files` are the parts that `PARTS` names; the other arguments are those of `backbones.load`.

    Raises:
        BadInput: the part is missing, or its files are broken or do not fit.
    """
    if "language_model" not in files:
        raise BadInput(f"mplug_owl/{variant}: files need language_model: {PARTS['language_model']}")
    folder = locate(files["language_model"], what="language_model")
    where = str(folder / "config.json")
    config = _checkpoint.read_json(folder / "config.json")
    _check_config(config, where)
    sources = _checkpoint.weight_files(folder, what="language_model")
    backbone = MplugOwl(
        f"mplug_owl/{variant}",
        original_config=_with_true_width(config, sources),
        where=where,
    )
    backbone.tokenizer = LlamaTokenizer(folder)
    backbone.tokenizer.check_rows(backbone.embedding.num_embeddings, where=where)
    backbone.files = {"language_model": folder}
    backbone.preprocessing = Preprocessing.read(
        folder, image_size=backbone.vision.image_size, squash=True
    )
    place = choose_device(device)
    numbers = choose_dtype(dtype, place, quantization)
    _quantised.replace(backbone.language_model, quantization, dtype=numbers)
    _checkpoint.fill(backbone, sources, keys=KEYS, ignored=IGNORED, dtype=numbers, device=place)
    _connector.replace(backbone, files)
    return backbone.to(place).eval()


_SECTIONS = {
    "text_config": (),  # the shared LLaMA says what it needs
    "vision_config": _owl_vision.NEEDED,
    "visual_abstractor_config": _owl_abstractor.NEEDED,
}


def _check_config(config: Mapping[str, Any], where: str) -> None:
    lost = [name for name in _SECTIONS if not isinstance(config.get(name), Mapping)]
    if "num_query_tokens" not in config:
        lost.append("num_query_tokens")
    if lost:
        raise BadInput(
            f"{where}: no mPLUG-Owl (model_type {config.get('model_type')!r}, no "
            f"{', '.join(lost)}); expected a folder as {VARIANTS['llama-7b'].source}"
        )
    kind = config["text_config"].get("model_type", "llama")
    if kind != "llama":
        raise BadInput(f"{where}: its language model is {kind!r}; only LLaMA is supported")
    for section, needed in _SECTIONS.items():
        missing = [key for key in needed if key not in config[section]]
        if missing:
            raise BadInput(f"{where}: no {', '.join(missing)} in {section}")


def _with_true_width(config: dict[str, Any], sources: Sequence[Path]) -> dict[str, Any]:
    """The config with the abstractor's MLP width as the weights have it.

    Some published configs say 4096, where the authors' code had made it 2816.

    Raises:
        BadInput: the weights are of a relative that needs other code, or a whole finetuned model.
    """
    for path in sources:
        for key, value in _checkpoint.read_tensors(path):
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
