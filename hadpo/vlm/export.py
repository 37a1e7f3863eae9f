"""Checkpoint folders out: as the authors published them, and as transformers reads them whole.

The `<image>` token of transformers' folder is the row of <unk>, which no text of a tokenizer with
byte pieces uses: a row of its own would take part in every softmax, as the kit's model has none.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from hadpo.records import replacing, write_json, write_text
from hadpo.vlm.prompt import LlamaTokenizer, Prompts

_INDEX = "model.safetensors.index.json"
_SHARD_BYTES = 5 * 10**9


def write_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    shard_bytes: int = _SHARD_BYTES,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights as safetensors: one file, or shards and their index, atomically per file.

    Older weights of the folder go. One shard at a time is cast to `dtype`; None: as they are.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for key, value in tensors.items():
        n_bytes = value.numel() * (dtype or value.dtype).itemsize
        if size and size + n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += n_bytes
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for old in [*folder.glob("model*.safetensors"), folder / _INDEX]:
        if old.name not in names:  # an index of earlier weights would win over the new file
            old.unlink(missing_ok=True)
    for name, keys in zip(names, shards, strict=True):
        shard = {key: tensors[key].detach().to("cpu", dtype).contiguous() for key in keys}
        with replacing(folder / name) as part:
            save_file(shard, part, metadata={"format": "pt"})
    if len(shards) > 1:
        places = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {}, "weight_map": places}
        write_json(folder / _INDEX, index)


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    config: Mapping[str, Any],
    beside: Iterable[Path],
    dtype: torch.dtype,
) -> None:
    """Write a checkpoint folder: weights, `config.json`, copies of `.model` and `.json` files."""
    write_tensors(folder, tensors, dtype=dtype)
    whole = {**config, "torch_dtype": str(dtype).removeprefix("torch.")}
    write_json(folder / "config.json", whole)
    for path in beside:
        if path.suffix in (".model", ".json") and path.is_file() and path.parent != folder:
            shutil.copyfile(path, folder / path.name)


IMAGE_TOKEN = "<image>"


def write_tokenizer(
    folder: Path, tokenizer: LlamaTokenizer, *, first: str, **settings: Any
) -> None:
    """Write `tokenizer.model`, and the same as transformers' `tokenizer.json` with `<image>`.

    Each piece of text between two marks gets its leading blank, as the originals' tokenizer does.
    `first` is the mark before every text; `settings` are more of `tokenizer_config.json`.
    """
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    marks = {IMAGE_TOKEN: tokenizer.special_ids["<unk>"]}
    marks |= {mark: tokenizer.special_ids[mark] for mark in ("<s>", "</s>")}
    for mark, place in marks.items():
        pieces[place] = mark
    vocab = {piece: place for place, piece in enumerate(pieces)}
    merges = [
        [left, right]
        for piece in tokenizer.merge_order()
        if piece in vocab and piece not in marks
        for left, right in sorted(
            ((piece[:i], piece[i:]) for i in range(1, len(piece))),
            key=lambda pair: (vocab.get(pair[0], -1), vocab.get(pair[1], -1)),
        )
        if left in vocab and right in vocab
    ]
    frame = Path(__file__).with_name("tokenizer.json").read_text(encoding="utf-8")
    content = json.loads(frame.replace("FIRST", first))
    (plain,) = content["added_tokens"]
    ordered = sorted(marks.items(), key=lambda item: item[1])
    content["added_tokens"] = [plain | {"id": place, "content": mark} for mark, place in ordered]
    content["post_processor"]["special_tokens"][first]["ids"] = [marks[first]]
    content["model"] |= {"vocab": vocab, "merges": merges}
    config = {
        **{"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False},
        **{"bos_token": first, "eos_token": "</s>", "pad_token": "</s>", "unk_token": IMAGE_TOKEN},
        **settings,
    }
    if tokenizer.path.parent != folder:
        shutil.copyfile(tokenizer.path, folder / tokenizer.path.name)
    write_json(folder / "tokenizer.json", content, indent=None, ensure_ascii=False)
    write_json(folder / "tokenizer_config.json", config)


def write_chat_template(folder: Path, prompts: Prompts) -> None:
    """Write the prompt of the evaluation, and of later turns, as a template of transformers."""
    assert prompts.again is not None
    again = prompts.again.text.removeprefix("</s>")
    (first, after), (later, _) = (
        text.removeprefix("<s>").split("{instruction}") for text in (prompts.evaluate.text, again)
    )
    template = Path(__file__).with_name("conversation.j2").read_text(encoding="utf-8")
    for name, text in (("FIRST", first), ("AGAIN", later), ("AFTER", after)):
        template = template.replace(name, json.dumps(text))
    write_text(folder / "chat_template.jinja", template)


def write_processor(
    folder: Path, pixels: Mapping[str, Any], processor: Mapping[str, Any], *, eos: int
) -> None:
    """Write what `AutoProcessor` and `generate` read beside model and tokenizer."""
    decoding = {"bos_token_id": 1, "eos_token_id": eos, "pad_token_id": eos, "do_sample": False}
    kind = {"processor_class": processor["processor_class"]}
    write_json(folder / "preprocessor_config.json", {**pixels, **kind})
    write_json(folder / "processor_config.json", processor)
    write_json(folder / "generation_config.json", decoding)


def language_model_names(folder: Path) -> tuple[str, str]:
    """How transformers' class of a whole model names what a LLaMA calls "model." and "lm_head"."""
    config = AutoConfig.from_pretrained(folder)
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config)
    names = [name for name, _ in model.named_modules() if "vision" not in name]
    layer, head = (
        next(name for name in names if name.endswith(end)) for end in ("layers.0", "lm_head")
    )
    return layer.removesuffix("layers.0"), head


def write_card(folder: Path, *, title: str, base: str, text: str) -> None:
    """Write `README.md` with the head that model hubs read; `text` says how to use the folder."""
    head = f"base_model: {base}\npipeline_tag: image-text-to-text"
    write_text(folder / "README.md", f"---\n{head}\n---\n\n# {title}\n\n{text.strip()}\n")
