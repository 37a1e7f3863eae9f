"""A folder of transformers: its config, its processor and chat template, its weights.

All that can be refused is refused before the weights are read. Images go through the class's own
Pil image processor, so neither torchvision nor its rounding is needed, and a folder gives the same
pixels on every machine.
"""

from __future__ import annotations

import inspect
import logging
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

import torch
import transformers
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.models.auto import processing_auto
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from hadpo.records import BadInput
from hadpo.vlm import checkpoint
from hadpo.vlm.checkpoint import Placement

log = logging.getLogger(__name__)

TEXT = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}  # of a row's words
SIZE = "picture_size"  # beside the pixels: height and width of the image, in pixels
_LABELS = "labels"  # what some processors add for a training of their own
_SENTINEL = "qzq"  # a text that no template holds
_CHUNKED = "chunked_attention"
_NOT_MODEL = (  # files beside the weights that are written anew, or are weights
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.gguf"),
    *("*.index.json", "config.json", "adapter_config.json", "*.md", "*.png", "*.jpg"),
)
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OSError, ImportError)


def read_config(folder: Path) -> Any:
    """The folder's config, of a class that reads images as tokens of a decoder.

    Raises:
        BadInput: it is none, or needs code of its own.
    """
    path = folder / "config.json"
    values = checkpoint.read_json(path)
    if "auto_map" in values:
        raise BadInput(f"{folder}: needs code of its own (trust_remote_code); this kit runs none")
    kind = values.get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise BadInput(
            f"{path}: model_type {kind!r} is no image-text-to-text model of transformers "
            f"{transformers.__version__}; a text-only model, or one of the kit's other backbones"
        )
    try:
        config = AutoConfig.from_pretrained(folder)
        text = config.get_text_config()
    except _UNFIT as error:
        raise BadInput(f"{path}: {_reason(error)}") from error
    what = f"model {folder.name}"
    is_read = {"full_attention", "sliding_attention"}
    if config.is_encoder_decoder or getattr(text, "cross_attention_layers", None):
        name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind]
        raise BadInput(
            f"{what}: {name} does not read images as tokens of its decoder; this backbone cannot"
        )
    if _CHUNKED in (getattr(text, "layer_types", None) or is_read):
        raise BadInput(
            f"{what}: layers of kind {_CHUNKED} see a part of the row that packing would move; "
            "this backbone cannot read it"
        )
    if image_id(config) is None:
        raise BadInput(f"{path}: no image_token_id, so nobody knows where an image goes")
    return config


def image_id(config: Any) -> int | None:
    """Id at the positions of an image; `image_token_index` is the older name."""
    found = (getattr(config, key, None) for key in ("image_token_id", "image_token_index"))
    return next((int(value) for value in found if value is not None), None)


def read_model(folder: Path, config: Any, *, quantization: str, **to: Unpack[Placement]) -> Any:
    """The frozen model.

    Raises:
        BadInput: weights are missing or broken, or bitsandbytes is needed and absent.
    """
    checkpoint.weight_files(folder, what="language_model")  # names what is missing
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": to["dtype"]}
    if quantization != "none":
        options["quantization_config"] = _quantised(config, quantization, to["dtype"])
        options["device_map"] = {"": to["device"]}
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, output_loading_info=True, **options
        )
    except _UNFIT as error:
        raise BadInput(f"{folder}: {_reason(error)}") from error
    model, info = loaded
    problems = [f"missing key {key!r}" for key in sorted(info["missing_keys"])]
    problems += [f"unexpected key {key!r}" for key in sorted(info["unexpected_keys"])]
    problems += [f"another shape: {key}" for key in info["mismatched_keys"]]
    if problems:
        raise BadInput(
            f"{folder}: {len(problems)} keys do not fit {type(model).__name__}:"
            + checkpoint.listed(problems)
        )
    if not isinstance(getattr(model, "model", None), nn.Module) or not hasattr(
        model.get_decoder(), "layers"
    ):
        raise BadInput(
            f"model {folder.name}: {type(model).__name__} does not read images as tokens of its "
            "decoder; this backbone cannot"
        )
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise BadInput(f"model {folder.name}: its output layer has a bias; this backbone has none")
    return model.requires_grad_(False).eval()


def _quantised(config: Any, quantization: str, dtype: torch.dtype) -> Any:
    """Of the decoder's layers alone: all other parts of the model are left as they are."""
    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(config)
    inside = empty.get_decoder()
    skipped = ["lm_head"]
    skipped += [n for n, m in empty.model.named_children() if m is not inside]
    fits = {"load_in_8bit": True} if quantization == "int8" else {"load_in_4bit": True}
    try:
        return transformers.BitsAndBytesConfig(
            **fits,
            llm_int8_skip_modules=skipped,
            bnb_4bit_quant_type=quantization if quantization in ("nf4", "fp4") else "nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    except ImportError as error:
        raise BadInput(
            f"quantization: {quantization} needs bitsandbytes; pip install -e '.[qlora]'"
        ) from error


def save(model: Any, folder: Path, source: Path, *, dtype: torch.dtype) -> None:
    """Write model, config, and copies of the source's other files: processor, template, ends."""
    cast: dict[int, Tensor] = {}
    weights = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in cast:  # tied weights stay one tensor
            is_float = value.is_floating_point()
            cast[value.data_ptr()] = value.detach().to("cpu", dtype if is_float else None)
        weights[name] = cast[value.data_ptr()]
    was = model.config.dtype
    model.config.dtype = dtype
    model.save_pretrained(folder, state_dict=weights)
    model.config.dtype = was
    for path in sorted(source.iterdir()):
        if path.is_file() and not any(path.match(pattern) for pattern in _NOT_MODEL):
            shutil.copyfile(path, folder / path.name)


def text_files(folder: Path) -> list[Path]:
    """The files that say how texts become ids."""
    names = ("*token*", "*.jinja", "chat_template.json", "processor_config.json", "vocab*", "*.txt")
    return sorted({path for name in names for path in folder.glob(name) if path.is_file()})


class Chat:
    """Processor, tokenizer and chat template of a folder; for the rest of the kit, a tokenizer.

    Raises:
        BadInput: no processor, one that needs a package that is not there, or a template without
            a place for an image.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder, self.path = folder, folder / "tokenizer.json"
        self.processor = read_processor(folder, config.model_type)
        self._tokenizer = getattr(self.processor, "tokenizer", self.processor)
        template = getattr(self.processor, "chat_template", None)
        self._template = template or getattr(self._tokenizer, "chat_template", None)
        self.image_id = image_id(config)
        self.image_token = self._tokenizer.convert_ids_to_tokens(self.image_id)
        special = {*self._tokenizer.all_special_tokens}
        added = self._tokenizer.added_tokens_decoder.values()
        self._special = special | {token.content for token in added if token.special}
        names = self._tokenizer.get_vocab()
        self.special_ids = {token: names[token] for token in self._special if token in names}
        self._ends = _ends(folder, config) | {self._tokenizer.eos_token_id}
        self.set_arguments({})

    def set_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Use these words of the template, and learn how it opens and closes an answer."""
        self.arguments = dict(arguments)
        text = self.text("x")
        if self._template and not self._holds_image(text):
            raise BadInput(f"{self.folder}: its chat template has no place for an image")
        closed = self._closed("x", _SENTINEL)
        self._lead, self.end_id = "", self._tokenizer.eos_token_id
        if closed is not None:
            before, _, behind = closed.partition(_SENTINEL)
            if before.startswith(text):
                self._lead = before[len(text) :]
            first = self._tokenizer(behind, add_special_tokens=False).input_ids[:1]
            if first and first[0] in self._ends and self._is_special(first[0]):
                self.end_id = first[0]
        self.stop_ids = frozenset(i for i in {*self._ends, self.end_id} if i is not None)
        if not self._template:
            text += "\n"  # what PaliGemma's processor writes behind the words
        marks = [text.rfind(mark) + len(mark) for mark in self._special if mark in text]
        self._tail = text[max(marks, default=0) :]
        self._before = self._ids(self._tail)
        self._is_told = False

    def _holds_image(self, text: str) -> bool:
        places = (self.image_token, getattr(self.processor, "boi_token", None))
        return any(place and place in text for place in (*places, "<image>"))

    def _is_special(self, number: int) -> bool:
        return self._tokenizer.convert_ids_to_tokens(number) in self._special

    def text(self, instruction: str, *, has_image: bool = True) -> str:
        """The whole prompt, as the template renders it; without one, the words.

        Raises:
            BadInput: the instruction holds the image's own mark, or the template fails.
        """
        if self.image_token in instruction:
            raise BadInput(
                f"a prompt needs exactly one image, found {self.image_token!r} in the words "
                f"{instruction[:60]!r}"
            )
        if not self._template:
            return instruction
        return self._render([_user(instruction, has_image=has_image)], add_generation_prompt=True)

    def _closed(self, instruction: str, answer: str) -> str | None:
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        if not self._template:
            return None
        try:
            found = self._render([_user(instruction), said], add_generation_prompt=False)
        except BadInput:
            return None
        return found if found.count(answer) == 1 else None

    def _render(self, said: Sequence[Any], **how: Any) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                said, chat_template=self._template, tokenize=False, **how, **self.arguments
            )
        except (TemplateError, *_UNFIT) as error:
            raise BadInput(f"{self.folder}: its chat template fails: {_reason(error)}") from error

    def process(self, text: str, image: Image.Image | None) -> dict[str, Tensor]:
        """The processor's row of a rendered prompt and its image, if it has one.

        Raises:
            BadInput: the processor refuses them, or its row has no place for the image.
        """
        begin = self._tokenizer.bos_token
        if not self._template:
            if image is None:
                raise BadInput(f"{self.folder}: this model answers questions about images only")
            text = self.image_token + text
        shown = {} if image is None else {"images": [image]}
        adds = {"add_special_tokens": False} if begin and text.startswith(begin) else {}
        try:
            made = dict(self.processor(**shown, text=[text], return_tensors="pt", **adds))
        except _UNFIT as error:
            raise BadInput(f"{self.folder}: its processor fails: {_reason(error)}") from error
        made.pop(_LABELS, None)
        if bool((made["input_ids"] == self.image_id).any()) != bool(shown):
            if not shown:
                raise BadInput(f"{self.folder}: its chat template writes an image where none is")
            raise BadInput(
                f"{self.folder}: its processor writes no {self.image_token!r} for an image; the "
                "chat template and the processor are not of one model"
            )
        return {key: torch.as_tensor(value) for key, value in made.items()}

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer behind the prompt's last words, without an end marker."""
        ids = self._ids(self._tail + self._lead + text)
        if ids[: len(self._before)] == self._before:
            return ids[len(self._before) :]
        if not self._is_told:
            self._is_told = True
            log.warning("%s: answers join with the prompt's end; encoded alone", self.folder)
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False).input_ids

    # What the kit asks of every tokenizer.

    @property
    def eos(self) -> int:
        """The end marker of an answer."""
        return self.end_id

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        return self._ids(text)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The pieces of `ids` as they stand in the vocabulary."""
        return [str(piece) for piece in self._tokenizer.convert_ids_to_tokens([*ids])]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids without special ones; half a character at the end is left out."""
        return self._tokenizer.decode([*ids], skip_special_tokens=True).rstrip("\ufffd")


def _user(instruction: str, *, has_image: bool = True) -> dict[str, Any]:
    content = [{"type": "image"}] * has_image + [{"type": "text", "text": instruction}]
    return {"role": "user", "content": content}


def _ends(folder: Path, config: Any) -> set[int]:
    """What stops the model, as its generation config says: one id, or a list."""
    found: Any = getattr(config.get_text_config(), "eos_token_id", None)
    if (folder / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(folder).eos_token_id
    return {*found} if isinstance(found, list | tuple) else set() if found is None else {found}


def read_processor(folder: Path, model_type: str) -> Any:
    """The class's own processor, made of its Pil image processor and tokenizer, without video.

    Raises:
        BadInput: there is none, or it needs what is not here.
    """
    whole = _optional(folder / "processor_config.json")
    pixels = whole.get("image_processor") or _optional(folder / "preprocessor_config.json")
    name = whole.get("processor_class") or pixels.get("processor_class")
    name = name or processing_auto.PROCESSOR_MAPPING_NAMES.get(model_type)  # pyright: ignore[reportPrivateImportUsage]
    if not name or not (whole or pixels):
        raise BadInput(
            f"{folder}: no processor (processor_config.json or preprocessor_config.json); "
            "download all files of the model"
        )
    if "auto_map" in whole or "auto_map" in pixels:
        raise BadInput(
            f"{folder}: its processor needs code of its own (trust_remote_code); this kit runs none"
        )
    kind = getattr(transformers, name, None)
    image = str(pixels.get("image_processor_type") or pixels.get("feature_extractor_type") or "")
    image = image.removesuffix("Fast").removesuffix("Pil")
    pil = getattr(transformers, f"{image}Pil", None)
    if kind is None or pil is None:
        raise BadInput(
            f"{folder}: transformers {transformers.__version__} has no {image or name} that works "
            "on Pillow's pictures, so this backbone cannot read its images"
        )
    try:
        if hasattr(pil, "_backends"):  # 5.17 hides some that need no torchvision
            pil = getattr(import_module(pil.__module__), f"{image}Pil")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        known = inspect.signature(kind.__init__).parameters
        values = {key: value for key, value in whole.items() if key in known}
        values |= {"image_processor": pil.from_dict(dict(pixels)), "tokenizer": tokenizer}
        values |= {part: None for part in kind.get_attributes() if part not in values}
        values["video_processor"] = None
        values["chat_template"] = _template(folder) or tokenizer.chat_template
        accepted = {k: v for k, v in values.items() if k in known}
        return _without_video(kind)(**accepted)
    except ImportError as error:
        raise BadInput(
            f"{folder}: its processor needs a package that is not here ({_reason(error)}); "
            "pip install -e '.[vlm]'"
        ) from error
    except _UNFIT as error:
        raise BadInput(f"{folder}: its processor cannot be made: {_reason(error)}") from error


def _without_video(kind: Any) -> Any:
    """The class, which does not ask for a video processor: that of most needs torchvision."""

    def accept(self: Any, name: str, argument: Any) -> None:
        del self, name, argument

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": accept})


def _template(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").is_file():
        return checkpoint.read_json(folder / "chat_template.json").get("chat_template")
    return _optional(folder / "processor_config.json").get("chat_template")


def _optional(path: Path) -> dict[str, Any]:
    return checkpoint.read_json(path) if path.is_file() else {}


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
