"""What frozen weights say of the pairs, computed once and kept on disk beside the pairs.

`References` keeps the reference's log-probabilities of each pair, `FeatureCache` what the vision
encoder saw in each image. What the numbers depend on is hashed: for a whole folder the dtype,
tokenizer, prompt, preprocessing and base weights; for each pair its picture's bytes, its texts and
its token ids. Numbers that were made from anything else are refused, never used.

Other batch shapes round differently: on a CPU in float32 by 1e-6, so the loss of the first update
is ln 2 up to rounding; `adapter_off` gives it exactly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hadpo import adapter, batch
from hadpo.batch import Example
from hadpo.batch.packing import micro_batches
from hadpo.config import TrainConfig
from hadpo.records import BadInput, Pair, read_json, replacing, write_text
from hadpo.trainer import sharding
from hadpo.trainer.checkpoints import stream_hash
from hadpo.vlm.backbone import Backbone

_SAVED_PAIRS = 1024  # a kill loses at most so many
_LOGPS = "the reference's log-probabilities"
_FEATURES = "the image features"
_CURE = "delete the folder to compute it again, or set reference: adapter_off"
_log = logging.getLogger(__name__)


@dataclass
class References:
    """Log-probabilities of chosen and rejected answers under the reference, kept in a folder.

    The folder holds `manifest.json` and the file of tensors that it names.
    """

    folder: Path
    made_from: dict[str, str]  # what all numbers depend on -> its hash
    pairs: dict[str, dict[str, str]] = field(default_factory=dict)  # the same of each, by column
    logps: Float[Tensor, "sides pairs"] = field(default_factory=lambda: torch.zeros(2, 0))
    file: str = ""
    found: int = 0  # pairs that were asked for and in the folder
    computed: int = 0  # pairs that were computed now

    def __post_init__(self) -> None:
        self._columns = {pair_id: k for k, pair_id in enumerate(self.pairs)}

    def of(self, pair_ids: Sequence[str]) -> Float[Tensor, "sides some"]:
        """The columns of these pairs, in their order."""
        return self.logps[:, [self._columns[pair_id] for pair_id in pair_ids]]

    def add(
        self,
        pairs: Mapping[str, dict[str, str]],
        logps: Float[Tensor, "sides some"],
        *,
        writes: bool,
    ) -> None:
        """Append columns; new files are written before the old ones go."""
        self.logps = torch.cat([self.logps.to(logps.dtype), logps], dim=1)
        self._columns |= {pair_id: len(self.pairs) + k for k, pair_id in enumerate(pairs)}
        self.pairs |= pairs
        self.computed += len(pairs)
        if not writes:
            return
        content = save({"logps": self.logps.contiguous()})
        old, self.file = self.file, f"logps-{_digest(content)}.safetensors"
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
    """The reference of all pairs: read from the folder, or computed and kept there.

    An adapter is switched off; of the settings, `max_length` and the layout of the rows are read.

    Raises:
        BadInput: no folder, or it holds numbers that were made from something else.
        FloatingPointError: the reference itself gives no numbers.
    """
    if folder is None:
        raise BadInput("reference: cache needs a folder to keep the log-probabilities in")

    def examples(row: Sequence[Pair]) -> list[Example]:
        """Token ids are made when they are read, and not kept."""
        return [batch.tokenize(backbone, p, max_length=settings.max_length) for p in row]

    by_id = {pair.pair_id: pair for pair in pairs}
    keys = _pair_keys(pairs, examples)
    references = _open(folder, _facts(backbone))
    for pair_id, key in keys.items():
        refuse_other(folder, f"{_LOGPS}: pair {pair_id}", references.pairs.get(pair_id, key), key)
    missing = [by_id[pair_id] for pair_id in keys if pair_id not in references.pairs]
    references.found = len(keys) - len(missing)
    accelerator = sharding.accelerator(backbone.device)
    rows = batch.grouped(missing, settings.pairs_per_row)
    rows.sort(key=lambda row: batch.row_length(examples(row)))
    for part in micro_batches(rows, _SAVED_PAIRS):
        share = [*map(examples, part[accelerator.process_index :: accelerator.num_processes])]
        order = [pair.pair_id for row in part for pair in row]
        logps = torch.zeros(2, len(order), dtype=torch.float64, device=backbone.device)
        for pair_id, column in _compute(backbone, share, settings.micro_batch_pairs):
            logps[:, order.index(pair_id)] = column
        summed: Any = accelerator.reduce(logps, reduction="sum")  # each process has its share
        is_finite = summed.isfinite().all(0).tolist()
        if bad := [pair_id for pair_id, good in zip(order, is_finite, strict=True) if not good]:
            raise FloatingPointError(
                f"the reference's log-probability is not a number on the pairs "
                f"{', '.join(bad[:5])}; try dtype: float32"
            )
        dtype = torch.promote_types(backbone.dtype, torch.float32)
        own_keys = {pair_id: keys[pair_id] for pair_id in order}
        references.add(own_keys, summed.to("cpu", dtype), writes=accelerator.is_main_process)
    return references


@torch.no_grad()
def _compute(
    backbone: Backbone, rows: Sequence[list[Example]], pairs: int
) -> Iterator[tuple[str, Float[Tensor, " answers"]]]:
    """Log-probabilities of each pair's answers with the adapter off, `pairs` at a time."""
    for part in micro_batches(rows, pairs):
        packed = batch.pack_rows(part, used_on=backbone.device.type)
        pixels = batch.read_pixels(backbone, packed.images)
        packed = packed.to(backbone.device)
        with adapter.disabled(backbone):
            logps = batch.answer_logps(backbone, packed, batch.embed(backbone, packed, pixels))
        yield from zip((e.pair_id for row in part for e in row), logps.T, strict=True)


def describe_references(folder: Path, pairs: Sequence[Pair], settings: TrainConfig) -> str:
    """For a plan: which reference, and how many pairs are in the folder already."""
    if settings.reference != "cache":
        return settings.reference
    known = _read_manifest(folder)["pairs"] if (folder / "manifest.json").is_file() else {}
    ready = sum(pair.pair_id in known for pair in pairs)
    return f"cache: {ready} of {len(pairs)} pairs are there"


def _open(folder: Path, facts: dict[str, str]) -> References:
    if not (folder / "manifest.json").is_file():
        return References(folder, facts)
    values = _read_manifest(folder)
    refuse_other(folder, _LOGPS, values["made_from"], facts)
    path = folder / values["file"]
    try:
        content = path.read_bytes()
        logps = load_file(path)["logps"]
    except (OSError, SafetensorError, KeyError) as error:
        raise BadInput(f"{path}: not readable ({error}); {_CURE}") from error
    if path.stem != f"logps-{_digest(content)}" or logps.shape != (2, len(values["pairs"])):
        raise BadInput(f"{path}: not what its manifest says; {_CURE}")
    return References(folder, facts, values["pairs"], logps, values["file"])


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    values = read_json(path, dict, expected=_CURE)
    if {"made_from", "file", "pairs"} - values.keys():
        raise BadInput(f"{path}: expected made_from, file and pairs; {_CURE}")
    return values


def _pair_keys(
    pairs: Sequence[Pair], examples: Callable[[Sequence[Pair]], list[Example]]
) -> dict[str, dict[str, str]]:
    """What the numbers of each pair depend on, as hashes."""
    images: dict[str, str] = {}
    keys: dict[str, dict[str, str]] = {}
    for pair in pairs:
        if pair.image not in images:
            try:
                images[pair.image] = _digest(Path(pair.image).read_bytes())
            except OSError as error:
                reason = error.strerror
                raise BadInput(
                    f"no image {pair.image} of pair {pair.pair_id} ({reason})"
                ) from error
        (example,) = examples([pair])
        ids = [example.prefix, example.chosen, example.rejected]
        key = {"image": images[pair.image]}
        for name in ("instruction", "chosen", "rejected"):
            key[name] = _digest(getattr(pair, name).encode())
        key["token ids"] = _digest(json.dumps(ids).encode())
        if keys.setdefault(pair.pair_id, key) != key:
            raise BadInput(f"two different pairs are called {pair.pair_id}; give each its own id")
    return keys


class FeatureCache:
    """Stands for `backbone.features`; counts what it read, computed, and had no room to keep."""

    def __init__(self, backbone: Backbone, folder: Path, budget_bytes: float) -> None:
        """`folder` is read and filled up to `budget_bytes`.

        Raises:
            BadInput: it holds features of other weights, preprocessing or numbers.
        """
        self._backbone, self._features = backbone, backbone.features
        self._folder, self._budget = folder, budget_bytes
        self.found = self.computed = self.not_kept = 0
        facts = _facts(backbone)
        facts = {name: facts[name] for name in ("dtype", "base weights", *backbone.facts)}
        manifest = folder / "manifest.json"
        if manifest.is_file():
            cure = "delete the folder to compute it again, or set vision_cache_gb: 0"
            refuse_other(folder, _FEATURES, read_json(manifest, dict, expected=cure), facts)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(manifest, json.dumps(facts))
        self._bytes = _size(folder)

    def __call__(self, pixels: Any) -> Any:
        """Features of each image: read from the folder, or computed and kept."""
        return self._backbone.stack([self._of(image) for image in pixels])

    def _of(self, image: Any) -> Any:
        path = self._folder / f"{_digest_of(image)}.safetensors"
        if path.is_file():
            self.found += 1
            kept = {k: v.to(self._backbone.device) for k, v in load_file(path).items()}
            return kept["features"] if kept.keys() == {"features"} else kept
        self.computed += 1
        features = self._features(self._backbone.stack([image]))[0]
        named = features if isinstance(features, Mapping) else {"features": features}
        content = save({key: value.cpu().contiguous() for key, value in named.items()})
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
    """For a plan: how many images are in the folder already, and how much room it has."""
    if not settings.vision_cache_gb:
        return "none"
    place = folder / "features"
    count = len(list(place.glob("*.safetensors")))
    return f"{count} images, {_size(place) / 1e9:.3g} of {settings.vision_cache_gb:g} GB"


def refuse_other(
    folder: Path, what: str, found: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    """Refuse kept numbers whose keys differ.

    `what` says what they are, and behind a colon of which item.

    Raises:
        BadInput: names the fields that differ, both values, and what to do.
    """
    found = {"kernels": "plain", **found}  # which nothing that is older says
    fields = [name for name in expected if found.get(name) != expected[name]]
    if "dtype" in fields:  # another dtype means other weights, too
        fields = ["dtype"]
    if fields:
        kind, _, item = what.partition(": ")
        differ = "; ".join(
            f"{n}: {found.get(n, 'nothing')} there, {expected[n]} here" for n in fields
        )
        place = f"{item}: " if item else ""
        raise BadInput(
            f"{folder}: {kind} were made from something else: {place}{differ}; "
            "delete the folder to compute them again, or set reference: adapter_off and "
            "vision_cache_gb: 0 to do without"
        )


def _facts(backbone: Backbone) -> dict[str, str]:
    """What all numbers of a frozen backbone depend on: dtype, kernels, and hashes of the rest."""
    probe = Image.frombytes("RGB", (7, 5), bytes(range(105)))
    named = {  # the same whether an adapter is attached or not
        name.replace(".base_layer.", "."): value
        for name, value in backbone.state_dict().items()
        if ".lora_" not in name
    }
    return {
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "kernels": backbone.kernels,
        "tokenizer": _digest(path.read_bytes() for path in backbone.text_files),
        "prompt": _digest(repr(backbone.PROMPTS.train).encode()),
        "preprocessing": _digest_of(backbone.preprocess(probe))
        + (", as_stored" if backbone.exif == "as_stored" else ""),
        "base weights": _digest(_parts(named, "{} {}")),
        **backbone.facts,
    }


def _digest(content: Any) -> str:
    """A short hash of bytes, or of several, one after the other."""
    return stream_hash([content] if isinstance(content, bytes | memoryview) else content)[:16]


def _digest_of(pixels: Tensor | Mapping[str, Tensor]) -> str:
    """A short hash of an image's pixels: of a tensor, or of several with their names and shapes."""
    return _digest(_bytes_of(pixels) if isinstance(pixels, Tensor) else _parts(pixels, "{} {} "))


def _parts(named: Mapping[str, Tensor], heading: str) -> Iterator[Any]:
    """Names, shapes and bytes of tensors, by name."""
    for name in sorted(named):
        yield heading.format(name, tuple(named[name].shape)).encode()
        yield _bytes_of(named[name])


def _bytes_of(values: Tensor) -> Any:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
