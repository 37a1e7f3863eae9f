"""What kept numbers were made from, so that those of anything else are refused, never used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hadpo.records import BadInput, value_hash
from hadpo.vlm.backbone import Backbone


def refuse_other(
    folder: Path, what: str, found: Mapping[str, str], asked: Mapping[str, str]
) -> None:
    """Refuse kept numbers whose keys differ.

    Args:
        folder: where they lie.
        what: what they are, and behind a colon of which item.
        found: what they were made from.
        asked: what they would be made from now.

    Raises:
        BadInput: names the fields that differ, both values, and how to mend it.
    """
    fields = [name for name in asked if found.get(name) != asked[name]]
    if "dtype" in fields:  # other numbers are other weights, too
        fields = ["dtype"]
    if fields:
        kind, _, item = what.partition(": ")
        differ = "; ".join(f"{n}: {found.get(n, 'nothing')} there, {asked[n]} here" for n in fields)
        place = f"{item}: " if item else ""
        raise BadInput(
            f"{folder}: {kind} were made from something else: {place}{differ}; "
            "delete the folder to compute them again, or set reference: adapter_off and "
            "vision_cache_gb: 0 to do without"
        )


def made_from(backbone: Backbone) -> dict[str, str]:
    """What all numbers of a frozen backbone depend on, each as a hash, and their type."""
    probe = Image.frombytes("RGB", (7, 5), bytes(range(105)))
    tokenizer = hashlib.sha256()
    for path in backbone.text_files:
        tokenizer.update(path.read_bytes())
    return {
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "tokenizer": tokenizer.hexdigest()[:16],
        "prompt": digest(repr(backbone.PROMPTS.train).encode()),
        "preprocessing": digest(content_of(backbone.preprocess(probe))),
        "base weights": _weights(backbone),
    }


def _weights(backbone: Backbone) -> str:
    """Hash of all weights but the adapter's; the same whether an adapter is attached or not."""
    found = hashlib.sha256()
    named = {
        name.replace(".base_layer.", "."): value
        for name, value in backbone.state_dict().items()
        if ".lora_" not in name
    }
    for name in sorted(named):
        found.update(f"{name} {tuple(named[name].shape)}".encode())
        found.update(content_of(named[name]))
    return found.hexdigest()[:16]


def digest(content: Any) -> str:
    """A short hash of bytes."""
    return value_hash(content)[:16]


def content_of(values: Tensor) -> Any:
    """The bytes of a tensor."""
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
