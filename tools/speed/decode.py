"""What a step of decoding costs at true sizes, counted on meta in the real loops."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from hadpo.cost import GPUS
from hadpo.generation import Decoding
from hadpo.generation.beam import decode_beams
from hadpo.generation.single import decode_single
from hadpo.vlm.attention import Prefix
from hadpo.vlm.decoder import KVState
from tools.speed import counting, models
from tools.speed.models import Geometry


@dataclass(frozen=True, kw_only=True)
class Case:
    """Questions that are answered side by side, some tokens into their answers."""

    questions: int
    images: int
    beams: int = 1
    written: int = 2  # tokens of each answer


CASES = {
    "POPE, 16 questions of 2 images": Case(questions=16, images=2),
    "POPE, 120 questions of 12 images": Case(questions=120, images=12),
    "SHR, 16 questions x 5 beams at 400": Case(questions=16, images=16, beams=5, written=400),
}
DEPTHS = (2, 4)  # layers that are counted; every count is linear in the depth
POPE, SHR = tuple(CASES)[1:]


def count(sizes: Geometry, names: Sequence[str] = tuple(CASES)) -> list[dict[str, Any]]:
    """Cases, with plain modules and with one kernel each for norm, rotary and SwiGLU.

    Returns:
        One row each: name, kernels, counts of a step of all its rows, modelled milliseconds by GPU,
        and those of the ideal: weights, prefixes and the rows' own tokens are read once.
    """
    rows = []
    for name in names:
        case = CASES[name]
        for kernels in (False, True):
            low, high = (
                _step(dataclasses.replace(sizes, depth=depth), case, kernels) for depth in DEPTHS
            )
            up = (sizes.depth - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
            found = {key: low[key] + up * (high[key] - low[key]) for key in low}
            for key in ("waits", "same_trace"):
                found[key] = high[key]
            rows.append({"name": name, "kernels": kernels} | found | _ideal(sizes, case))
    return rows


def _step(sizes: Geometry, case: Case, kernels: bool) -> dict[str, float]:
    """Counts of the third step; the second one must do the same."""
    backbone = models.on_meta(sizes, dtype=torch.bfloat16, trains=False)
    state = _state(sizes, case)
    logits = torch.empty(case.questions, sizes.vocab, device="meta")
    decoding = Decoding(name="count", beams=case.beams, max_new_tokens=5)
    found, extend, marks = counting.Count(), backbone.extend, []

    def marked(*given: Any) -> Any:
        marks.append((_totals(found), len(found.trace)))
        return extend(*given)

    one_each = counting.one_kernel_each() if kernels else contextlib.nullcontext()
    with (
        one_each,
        mock.patch.object(backbone, "extend", marked),
        mock.patch.object(backbone, "ends", lambda ids: ids[..., -1] == -1),
        torch.no_grad(),
        found,
    ):
        if case.beams > 1:
            decode_beams(backbone, logits, state, decoding)
        else:
            questions = [str(number) for number in range(case.questions)]
            decode_single(backbone, logits, state, decoding, questions)
    (_, first), (before, second), (after, third) = marks[1:4]
    step = {key: after[key] - before[key] for key in after}
    step["same_trace"] = float(found.trace[first:second] == found.trace[second:third])
    return step


def _state(sizes: Geometry, case: Case) -> KVState:
    """As `Backbone.reader` and the steps before leave it."""
    heads, size = sizes.few_heads or sizes.heads, sizes.width // sizes.heads
    own = sizes.rest + (case.written - 2) * case.beams

    def layers(rows: int, slots: int) -> tuple[torch.Tensor, ...]:
        shape = rows, heads, slots, size
        return tuple(
            torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(sizes.depth)
        )

    each = case.questions // case.images
    of = tuple(row // each for row in range(case.questions))
    prefix = [layers(case.images, sizes.shared) for _ in range(2)]
    return KVState(
        keys=layers(case.questions, own),
        values=layers(case.questions, own),
        real=torch.ones(case.questions, own, dtype=torch.bool),
        lengths=torch.full((case.questions,), sizes.shared + own),
        prefix=Prefix(keys=prefix[0], values=prefix[1], real=None, of=of),
    )


def _totals(found: counting.Count) -> dict[str, float]:
    totals = {
        "launches": found.launches,
        "waits": found.waits,
        "other_gb": found.other_bytes / 1e9,
        "product_gb": found.product_bytes / 1e9,
        "host_ms": 1e3 * found.seconds("A100")[1],
    }
    return totals | {f"ms {gpu}": 1e3 * found.seconds(gpu)[0] for gpu in counting.GPU_NAMES}


def _ideal(sizes: Geometry, case: Case) -> dict[str, float]:
    """Milliseconds of a step that only reads what it must, at the memory's bandwidth."""
    h, few = sizes.width, (sizes.few_heads or sizes.heads) * sizes.width // sizes.heads
    weights = sizes.depth * (2 * h * (h + few) + 3 * h * sizes.mlp_width) + h * sizes.vocab
    own = case.questions * (sizes.rest + case.written * case.beams)
    slots = case.images * sizes.shared + own
    read = 2 * (weights + 2 * sizes.depth * few * slots)
    return {
        f"ideal ms {gpu}": 1e3 * read / (GPUS[gpu].peaks.gigabytes_a_second * 1e9)
        for gpu in counting.GPU_NAMES
    }


def ratio(row: Mapping[str, Any], gpu: str = "A100") -> float:
    """Modelled milliseconds over those of the ideal."""
    return row[f"ms {gpu}"] / row[f"ideal ms {gpu}"]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| step of decoding | launches | waits | same as the step before | elementwise GB "
        "| product GB | ms A100 | ideal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["name"] + ", kernels" * row["kernels"]
        lines.append(
            f"| {name} | {row['launches']:.0f} | {row['waits']:.0f} "
            f"| {'yes' if row['same_trace'] else 'no'} | {row['other_gb']:.2f} "
            f"| {row['product_gb']:.1f} | {row['ms A100']:.1f} | {row['ideal ms A100']:.1f} |"
        )
    return lines
