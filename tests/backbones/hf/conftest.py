"""Recorded answers of transformers' own classes: the case folders of shared/golden/hf."""

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hadpo import adapter, backbones, batch
from hadpo.batch import Example
from hadpo.vlm import hub

ROOT = Path(os.environ.get("HADPO_SHARED") or Path(__file__).parents[4] / "shared") / "golden/hf"
FOLDERS = sorted(path.parent for path in ROOT.glob("*/*/meta.json"))


@dataclass
class Case:
    """A model of one class, its prompts, and what the class itself said."""

    folder: Path
    dtype: torch.dtype
    backbone: Any = field(init=False)

    def __post_init__(self):
        own = {"language_model": self.folder}
        self.backbone = backbones.load("hf/auto", own, dtype="float32", device="cpu")
        self.backbone.to(self.dtype)
        if self.meta["template_arguments"]:
            self.backbone.set_template(self.meta["template_arguments"])

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))

    @cached_property
    def outputs(self):
        return load_file(self.folder / "outputs.safetensors")

    @cached_property
    def examples(self) -> list[Example]:
        made = []
        for number, pair in enumerate(self.meta["pairs"]):
            image, question = str(self.folder / pair["image"]), pair["question"]
            chosen, rejected = (self.backbone.response_ids(pair[s]) for s in ("chosen", "rejected"))
            made.append(
                Example(
                    pair_id=str(number),
                    kind="pope",
                    image=image,
                    instruction=question,
                    prefix=tuple(self.backbone.prefix(question, image, prompt="train")),
                    chosen=tuple(chosen),
                    rejected=tuple(rejected),
                    cut=0,
                )
            )
        return made

    @cached_property
    def given(self) -> list[dict[str, torch.Tensor]]:
        """The recorded rows, one dictionary a prompt."""
        tensors = load_file(self.folder / "inputs.safetensors")
        rows = [{} for _ in self.meta["pairs"]]
        for key, value in tensors.items():
            number, _, name = key.partition(".")
            rows[int(number)][name] = value
        return rows

    @cached_property
    def pixels(self) -> list[dict[str, torch.Tensor]]:
        """The recorded pixels, as `preprocess` would give them."""
        sizes = [Image.open(self.folder / pair["image"]).size for pair in self.meta["pairs"]]
        return [
            {k: v for k, v in row.items() if k not in hub.TEXT}
            | {hub.SIZE: torch.tensor([height, width])}
            for row, (width, height) in zip(self.given, sizes, strict=True)
        ]

    def attach(self) -> None:
        adapter.load(self.backbone, self.folder / "adapter")
        for parameter in self.backbone.parameters():
            parameter.data = parameter.data.to(self.dtype)

    def tables(self, examples=None) -> torch.Tensor:
        """Log-probability of each answer token: answers, pairs, longest."""
        packed = batch.pack(examples or self.examples)
        pixels = [self.pixels[int(name.pair_id)] for name in (examples or self.examples)]
        inputs = batch.embed(self.backbone, packed, pixels)
        return batch.token_table(self.backbone, packed, inputs)

    def error(self, table: torch.Tensor, kind: str) -> float:
        """Largest difference of a token's log-probability from the recording."""
        found = []
        for number, example in enumerate(self.examples):
            for side, name in enumerate(("chosen", "rejected")):
                expected = self.outputs[f"{number}.{kind}.{name}"]
                own = table[side, number, : len(getattr(example, name))]
                found.append(float((own.detach().double() - expected).abs().max()))
        return max(found)

    @torch.no_grad()
    def replace_by_own(self) -> None:
        """Put in the place of the recording what the class says in this dtype, row by row.

        A recurrence amplifies float32's rounding: the class itself is 1e-2 from float64 there.
        """
        model = self.backbone.language_model
        for number, pair in enumerate(self.meta["pairs"]):
            for name in ("chosen", "rejected"):
                answer = torch.tensor([pair[f"{name}_ids"]])
                row = {
                    k: v.to(self.dtype) if v.is_floating_point() else v
                    for k, v in self.given[number].items()
                }
                start = row["input_ids"].shape[1] - 1
                for key in hub.TEXT & row.keys():
                    fill = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
                    tail = fill.get(key, torch.zeros_like(answer))
                    row[key] = torch.cat([row[key], tail], dim=1)
                logits = model(**row).logits[0, start:-1].double()
                found = logits.log_softmax(-1).gather(-1, answer[0][:, None])[:, 0]
                self.outputs[f"{number}.reference.{name}"] = found


def by_hand(folder: Path) -> Any:
    """Stands for a processor that cannot be made here: it gives the recorded rows of a folder."""
    from transformers import AutoTokenizer

    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "inputs.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sizes = [tuple(pair["image_size"]) for pair in meta["pairs"]]
    mark = tokenizer.convert_ids_to_tokens(meta["image_token_id"])

    def process(images, text, return_tensors, **how):
        number = sizes.index(images[0].size) if images[0].size in sizes else 0
        row = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{number}.")}
        ids = row["input_ids"][0].tolist()
        first = ids.index(meta["image_token_id"])
        last = len(ids) - ids[::-1].index(meta["image_token_id"])
        # The image's tokens, and the marker on either side, of the recorded row.
        middle = ids[first - 1 : last + 1]
        before, _, behind = text[0].partition(mark)
        parts = [tokenizer(part, add_special_tokens=False).input_ids for part in (before, behind)]
        whole = torch.tensor([[*parts[0], *middle, *parts[1]]])
        return {**row, "input_ids": whole, "attention_mask": torch.ones_like(whole)}

    return type(
        "ByHand",
        (),
        {
            "tokenizer": tokenizer,
            "chat_template": tokenizer.chat_template,
            "__call__": lambda self, **how: process(**how),
        },
    )()


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def folder(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def open_case(folder):
    """Makes a fresh `Case` of a dtype."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if "SmolVLM" in meta["class"]:
        pytest.importorskip("num2words", reason="SmolVLM's processor needs the extra vlm")

    def make(dtype=torch.float64) -> Case:
        with pytest.MonkeyPatch.context() as patch:
            if meta["inputs_made_by"] == "hand":
                patch.setattr(hub, "read_processor", lambda *_: by_hand(folder))
            return Case(folder, dtype)

    return make


@pytest.fixture(scope="module")
def case(open_case) -> Case:
    return open_case()
