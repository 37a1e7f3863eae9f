"""The reference's log-probabilities, computed once per pair and kept beside the pairs.

A folder holds `manifest.json` and one file of tensors that it names. What the numbers depend on is
hashed: for the whole folder the numbers' type, tokenizer, prompt, preprocessing and base weights;
for each pair its picture's bytes, its texts and its token ids. Numbers that were made from anything
else are refused, never used. Other batch shapes round differently: on a CPU in float32 by 1e-6, so
the loss of the first update is ln 2 up to rounding, where `adapter_off` gives it exactly.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hadpo import adapter, batch
from hadpo.batch import Example
from hadpo.batch.packing import micro_batches
from hadpo.config import TrainConfig
from hadpo.records import BadInput, Pair, read_json, replacing, value_hash, write_text
from hadpo.vlm.backbone import Backbone

# What kept numbers were made from, so that those of anything else are refused, never used.


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


_SAVED_PAIRS = 1024  # a kill loses at most so many
_WHAT = "the reference's log-probabilities"
_MEND = "delete the folder to compute it again, or set reference: adapter_off"


@dataclass(frozen=True, kw_only=True)
class References:
    """Log-probabilities of chosen and rejected answers under the reference, by pair."""

    rows: Mapping[str, int]  # pair -> its place in the table
    logps: Float[Tensor, "answers pairs"]
    found: int  # pairs that were there before
    computed: int  # pairs that were computed now

    def of(self, pair_ids: Sequence[str]) -> Float[Tensor, "answers some"]:
        """The columns of these pairs, in their order."""
        return self.logps[:, [self.rows[pair_id] for pair_id in pair_ids]]


@dataclass
class _Store:
    """What a folder holds."""

    folder: Path
    made_from: dict[str, str]  # what all numbers depend on -> its hash
    pairs: dict[str, dict[str, str]] = field(default_factory=dict)  # in the order of the table
    logps: Tensor = field(default_factory=lambda: torch.zeros(2, 0))
    file: str = ""

    def add(self, pairs: Mapping[str, dict[str, str]], logps: Tensor, *, writes: bool) -> None:
        """Append columns; written to new files before the old ones go."""
        self.logps = torch.cat([self.logps.to(logps.dtype), logps], dim=1)
        self.pairs |= pairs
        if not writes:
            return
        content = save({"logps": self.logps.contiguous()})
        old, self.file = self.file, f"logps-{digest(content)}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {"made_from": self.made_from, "file": self.file, "pairs": self.pairs}
        for name, data in ((self.file, content), ("manifest.json", json.dumps(values).encode())):
            with replacing(self.folder / name, is_shared=True) as part:
                part.write_bytes(data)
        if old and old != self.file:
            (self.folder / old).unlink(missing_ok=True)


def prepare(
    backbone: Backbone, pairs: Sequence[Pair], settings: TrainConfig, folder: Path | None
) -> References:
    """The reference of all pairs: read where it is there, computed and kept where it is not.

    Args:
        backbone: the base, with or without an adapter, which is switched off.
        pairs: all that training and its evaluation will ask for.
        settings: `max_length` and the layout of the rows are read.
        folder: where the numbers are kept; several runs may share it.

    Raises:
        BadInput: no folder, or it holds numbers that were made from something else.
        FloatingPointError: the reference itself gives no numbers.
    """
    if folder is None:
        raise BadInput("reference: cache needs a folder to keep the log-probabilities in")
    by_id = {pair.pair_id: pair for pair in pairs}

    def examples(row: Sequence[Pair]) -> list[Example]:
        """Token ids are made where they are needed, and not kept."""
        return [batch.tokenize(backbone, p, max_length=settings.max_length) for p in row]

    asked = _pair_keys(pairs, examples)
    store = _open(folder, made_from(backbone))
    for pair_id, key in asked.items():
        refuse_other(folder, f"{_WHAT}: pair {pair_id}", store.pairs.get(pair_id, key), key)
    missing = [by_id[pair_id] for pair_id in asked if pair_id not in store.pairs]
    device = backbone.device
    accelerator = Accelerator(
        cpu=device.type == "cpu", device_placement=False, mixed_precision="no"
    )
    rows = batch.grouped(missing, settings.pairs_per_row)
    rows.sort(key=lambda row: batch.row_length(examples(row)))
    for part in micro_batches(rows, _SAVED_PAIRS):
        mine = [*map(examples, part[accelerator.process_index :: accelerator.num_processes])]
        order = [pair.pair_id for row in part for pair in row]
        found = _compute(backbone, mine, settings.micro_batch_pairs)
        logps = torch.zeros(2, len(order), dtype=torch.float64, device=device)
        for pair_id, column in found.items():
            logps[:, order.index(pair_id)] = column
        summed: Any = accelerator.reduce(logps, reduction="sum")  # each process has its share
        _check_finite(order, summed)
        numbers = torch.promote_types(backbone.dtype, torch.float32)
        keys = {pair_id: asked[pair_id] for pair_id in order}
        store.add(keys, summed.to("cpu", numbers), writes=accelerator.is_main_process)
    return References(
        rows={pair_id: k for k, pair_id in enumerate(store.pairs)},
        logps=store.logps,
        found=len(asked) - len(missing),
        computed=len(missing),
    )


def describe_references(folder: Path, pairs: Sequence[Pair], settings: TrainConfig) -> str:
    """For a plan: where the reference comes from, and how much of it is there already."""
    if settings.reference != "cache":
        return settings.reference
    path = folder / "manifest.json"
    known = _read_manifest(folder)["pairs"] if path.is_file() else {}
    ready = sum(pair.pair_id in known for pair in pairs)
    return f"cache: {ready} of {len(pairs)} pairs are there"


@torch.no_grad()
def _compute(
    backbone: Backbone, rows: Sequence[list[Example]], pairs: int
) -> dict[str, Float[Tensor, " answers"]]:
    found: dict[str, Tensor] = {}
    for part in micro_batches(rows, pairs):
        packed = batch.pack_rows(part)
        pixels = batch.read_pixels(backbone, packed.images)
        packed = packed.to(backbone.device)
        with adapter.disabled(backbone):
            logps = batch.answer_logps(backbone, packed, batch.embed(backbone, packed, pixels))
        ids = [example.pair_id for row in part for example in row]
        found |= dict(zip(ids, logps.T, strict=True))
    return found


def _check_finite(pair_ids: Sequence[str], logps: Tensor) -> None:
    bad = [
        i for i, good in zip(pair_ids, logps.isfinite().all(0).tolist(), strict=True) if not good
    ]
    if bad:
        raise FloatingPointError(
            f"the reference's log-probability is not a number on the pairs {', '.join(bad[:5])}; "
            "try dtype: float32"
        )


def _open(folder: Path, made_from: dict[str, str]) -> _Store:
    if not (folder / "manifest.json").is_file():
        return _Store(folder, made_from)
    values = _read_manifest(folder)
    refuse_other(folder, _WHAT, values["made_from"], made_from)
    path = folder / values["file"]
    try:
        content = path.read_bytes()
        logps = load_file(path)["logps"]
    except (OSError, SafetensorError, KeyError) as error:
        raise BadInput(f"{path}: not readable ({error}); {_MEND}") from error
    if path.stem != f"logps-{digest(content)}" or logps.shape != (2, len(values["pairs"])):
        raise BadInput(f"{path}: not what its manifest says; {_MEND}")
    return _Store(folder, made_from, values["pairs"], logps, values["file"])


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    values = read_json(path, dict, expected=_MEND)
    if {"made_from", "file", "pairs"} - values.keys():
        raise BadInput(f"{path}: expected made_from, file and pairs; {_MEND}")
    return values


def _pair_keys(
    pairs: Sequence[Pair], examples: Callable[[Sequence[Pair]], list[Example]]
) -> dict[str, dict[str, str]]:
    images: dict[str, str] = {}
    keys: dict[str, dict[str, str]] = {}
    for pair in pairs:
        if pair.image not in images:
            images[pair.image] = _image(pair)
        (example,) = examples([pair])
        ids = [example.prefix, example.chosen, example.rejected]
        key = {"image": images[pair.image]}
        key |= {n: digest(getattr(pair, n).encode()) for n in ("instruction", "chosen", "rejected")}
        key["token ids"] = digest(json.dumps(ids).encode())
        if keys.setdefault(pair.pair_id, key) != key:
            raise BadInput(f"two different pairs are called {pair.pair_id}; give each its own id")
    return keys


def _image(pair: Pair) -> str:
    try:
        return digest(Path(pair.image).read_bytes())
    except OSError as error:
        reason = error.strerror
        raise BadInput(f"no image {pair.image} of pair {pair.pair_id} ({reason})") from error


# What the vision encoder saw in each image, kept on disk from one visit to the next.

_FEATURES = "the image features"
_log = logging.getLogger(__name__)


class FeatureCache:
    """Stands for `backbone.features`; counts what it found, computed, and had no room to keep."""

    def __init__(self, backbone: Backbone, folder: Path, budget_bytes: float) -> None:
        """`folder` is read and filled up to `budget_bytes`.

        Raises:
            BadInput: it holds features of other weights, preprocessing or numbers.
        """
        self._features = backbone.features
        self._folder, self._budget = folder, budget_bytes
        self.found = self.computed = self.not_kept = 0
        facts = made_from(backbone)
        facts = {k: facts[k] for k in ("dtype", "base weights")}
        manifest = folder / "manifest.json"
        if manifest.is_file():
            cure = "delete the folder to compute it again, or set vision_cache_gb: 0"
            refuse_other(folder, _FEATURES, read_json(manifest, dict, expected=cure), facts)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(manifest, json.dumps(facts))
        self._bytes = _size(folder)

    def __call__(
        self, pixels: Float[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images patches features"]:
        """Features of each image: read where they are there, else computed and kept."""
        return torch.stack([self._of(image) for image in pixels])

    def _of(self, image: Float[Tensor, "3 side side"]) -> Float[Tensor, "patches features"]:
        path = self._folder / f"{digest(content_of(image))}.safetensors"
        if path.is_file():
            self.found += 1
            return load_file(path)["features"].to(image.device)
        self.computed += 1
        features = self._features(image[None])[0]
        content = save({"features": features.cpu().contiguous()})
        if self._bytes + len(content) > self._budget:
            self.not_kept += 1
            return features
        with replacing(path, is_shared=True) as part:
            part.write_bytes(content)
        self._bytes += len(content)
        return features


@contextmanager
def cache_features(
    backbone: Backbone, folder: Path | None, settings: TrainConfig
) -> Iterator[FeatureCache | None]:
    """Within it, the backbone's features are kept below `folder`, if the settings ask for it."""
    if not settings.vision_cache_gb:
        yield None
        return
    if folder is None:
        raise BadInput("vision_cache_gb needs a folder to keep the image features in")
    cache = FeatureCache(backbone, folder / "features", settings.vision_cache_gb * 1e9)
    backbone.features = cache  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield cache
    finally:
        del backbone.features
        _log.info(
            "image features: %d read, %d computed, %d of them not kept (vision_cache_gb: %g)",
            *(cache.found, cache.computed, cache.not_kept, settings.vision_cache_gb),
        )


def describe_features(folder: Path, settings: TrainConfig) -> str:
    """For a plan: how many images are kept already, and how much room there is."""
    if not settings.vision_cache_gb:
        return "none"
    place = folder / "features"
    count = len(list(place.glob("*.safetensors")))
    return f"{count} images, {_size(place) / 1e9:.3g} of {settings.vision_cache_gb:g} GB"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
