"""An adapter out of a dump: a whole model, saved with its LoRA inside, as LRV V2 was published.

Such a file holds 13 GB of weights, of which the base has all but 17 MB, and its keys depend on the
version of peft that wrote it.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hadpo.adapter import files
from hadpo.records import BadInput, write_json
from hadpo.vlm import checkpoint

log = logging.getLogger(__name__)

_PREFIX = "base_model.model."
_LANGUAGE_MODEL = "language_model."  # where mPLUG-Owl keeps its LLaMA
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_COMPUTED = ("rotary_emb.inv_freq", "position_ids")  # stored by some versions, never used
_AT_ONCE = 2**24  # numbers of a tensor that are compared at one time
REPORT = "base_difference.json"


@dataclass(frozen=True, kw_only=True)
class DumpReport:
    """What was taken out of a dump, and how far the rest of it is from the base."""

    rank: int
    targets: tuple[str, ...]
    lora_tensors: int
    compared: int  # tensors that dump and base both have
    equal: int  # of these, number for number
    largest_difference: float  # of any number of any of them
    farthest: Mapping[str, float]  # at most ten tensors that differ, the farthest first
    missing: tuple[str, ...]  # in the base, not in the dump
    unexpected: tuple[str, ...]  # in the dump, not in the base, and no LoRA

    @property
    def adapter_is_all(self) -> bool:
        """Whether base and adapter together are the dumped model, number for number."""
        return self.compared == self.equal > 0 and not (self.missing or self.unexpected)


def from_dump(
    dump: Path, base: Path, folder: Path, *, alpha: float = 32.0, dropout: float = 0.05
) -> DumpReport:
    """Write the adapter in `dump` to `folder`, and beside it how far the rest is from `base`.

    Reads keys of every age of peft: `lora_A.weight` or `lora_A.default.weight`, the layer's own
    weight as `weight` or `base_layer.weight`. A file that holds the adapter only is read, too;
    then nothing is compared, and every tensor of the base is missing.

    Args:
        dump: the file, or a folder of shards. `.bin` and `.pth` are mapped, not read whole.
        base: folder of the base that the adapter belongs to.
        folder: gets `adapter_config.json`, `adapter_model.safetensors`, `base_difference.json`.
        alpha: a dump does not say it; LRV V2 was trained with 32 at rank 8 (mPLUG-Owl,
            scripts/train_it.sh).
        dropout: as `alpha`.

    Raises:
        BadInput: no LoRA in the dump, LoRA outside the language model, halves of different ranks,
            or tensors of other shapes than the base has.
    """
    weights: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for path in checkpoint.weight_files(dump, what="dump"):
        for key, value in checkpoint.read_tensors(path):
            bare = key.removeprefix(_PREFIX)
            found = _LORA.fullmatch(bare)
            if found:
                weights[f"{found[1]}.lora_{found[2]}.weight"] = value.clone()
            elif not bare.endswith(_COMPUTED):
                rest[bare.replace(".base_layer.", ".")] = value
    rank = _check_lora(weights, dump)
    targets = {key.rpartition(".lora_")[0].rpartition(".")[2] for key in weights}
    compared = _compare(rest, checkpoint.weight_files(base, what="base"), where=dump)
    report = DumpReport(
        rank=rank, targets=tuple(sorted(targets)), lora_tensors=len(weights), **compared
    )
    files.write(
        folder,
        {_PREFIX + key.removeprefix(_LANGUAGE_MODEL): value for key, value in weights.items()},
        {
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "target_modules": sorted(targets),
        },
        base=base.name,
    )
    write_json(folder / REPORT, dataclasses.asdict(report))
    if not report.adapter_is_all:
        log.warning(
            "%s: base and adapter are not all of it: %d of %d tensors differ (by %.3g at most), "
            "%d missing, %d unexpected; see %s",
            *(dump, report.compared - report.equal, report.compared, report.largest_difference),
            *(len(report.missing), len(report.unexpected), folder / REPORT),
        )
    return report


def _check_lora(weights: Mapping[str, Tensor], dump: Path) -> int:
    """The rank that all layers have."""
    if not weights:
        raise BadInput(f"{dump}: no LoRA in it (no key ends in lora_A.weight); expected a dump")
    problems = [
        f"{key!r} is outside the language model"
        for key in weights
        if not key.startswith((_LANGUAGE_MODEL + "model.layers.", "model.layers."))
    ]
    layers = dict.fromkeys(key.rpartition(".lora_")[0] for key in weights)
    ranks = set()
    for layer in layers:
        a, b = (weights.get(f"{layer}.lora_{half}.weight") for half in "AB")
        if a is None or b is None:
            problems.append(f"{layer!r} has lora_{'A' if b is None else 'B'} only")
        elif a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not a.numel():
            problems.append(f"{layer!r}: A {list(a.shape)} and B {list(b.shape)} do not fit")
        else:
            ranks.add(len(a))
    if len(ranks) > 1:
        problems.append(f"layers of different ranks: {sorted(ranks)}")
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:8])
        raise BadInput(f"{dump}: {len(problems)} problems with its LoRA:{shown}")
    return ranks.pop()


def _compare(rest: dict[str, Tensor], base: Iterable[Path], *, where: Path) -> dict:
    """The report's fields about the base; tensors of the base are read one after the other."""
    differences: dict[str, float] = {}
    missing, misfits = [], []
    for path in base:
        for key, value in checkpoint.read_tensors(path):
            if key.endswith(_COMPUTED):
                continue
            dumped = rest.pop(key, None)
            if dumped is None:
                missing.append(key)
            elif dumped.shape != value.shape:
                misfits.append(f"{key!r}: {list(dumped.shape)}, the base has {list(value.shape)}")
            else:
                differences[key] = _difference(dumped, value)
    if misfits:
        shown = "".join(f"\n  {misfit}" for misfit in misfits[:8])
        raise BadInput(
            f"{where}: {len(misfits)} tensors have other shapes than the base's; it was made from "
            f"another model:{shown}"
        )
    far = sorted(((d, key) for key, d in differences.items() if d), reverse=True)[:10]
    return {
        "compared": len(differences),
        "equal": sum(difference == 0 for difference in differences.values()),
        "largest_difference": max(differences.values(), default=0.0),
        "farthest": {key: difference for difference, key in far},
        "missing": tuple(missing),
        "unexpected": tuple(rest),
    }


def _difference(mine: Tensor, other: Tensor) -> float:
    """Largest difference of two numbers; infinite where one is no number."""
    most = 0.0
    for a, b in zip(mine.flatten().split(_AT_ONCE), other.flatten().split(_AT_ONCE), strict=True):
        if a.numel():
            distance = float((a.to(torch.float64) - b.to(torch.float64)).abs().max())
            most = max(most, math.inf if math.isnan(distance) else distance)
    return most
