"""What a training will do, before it does it: updates, tokens, memory and time, by estimate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hadpo import adapter, batch, memory
from hadpo.batch import Example
from hadpo.batch.packing import by_length, micro_batches
from hadpo.config import TrainConfig, names
from hadpo.records import Pair
from hadpo.trainer import order, reference
from hadpo.trainer.examples import Examples, Record, kind_of, tokenized
from hadpo.trainer.objective import SIDES
from hadpo.trainer.stage import cache_folder, loaded, objectives_of, read_captions, read_records
from hadpo.vlm.backbone import Backbone

if TYPE_CHECKING:
    from hadpo.runs import Run

# Part of a device's name -> TFLOP/s of its 16-bit peak, and the share that a training reaches
# (middle of the range that Hugging Face modules with LoRA reach).
_RATES = {"H200": (989, 0.42), "H100": (989, 0.42), "A100": (312, 0.52), "V100": (125, 0.42)}
_CPU_TFLOPS = 0.01  # of one thread in float32; small models reach less
_BACKWARD_ATTENTION = 2.5  # products of the attention's backward pass over those of its forward


def plan(run: Run) -> dict[str, Any]:
    """What a training will do, before it does it.

    Returns:
        Updates, pairs, tokens, share of padding, answers that are cut; by estimate, memory in GB of
        one process, 10^12 operations, and hours where the device's rate is known.
    """
    settings = run.recipe.train
    order.check(settings)
    pairs, held_out = read_records(run)
    backbone = loaded(run)
    examples, left_out = tokenized(backbone, pairs, settings)
    updates = order.of_records(examples.records, settings)
    positions = tokens = longest = scored = packed_rows = 0
    objectives = objectives_of(settings)
    cost = _Cost.of(backbone, settings)
    operations = 0.0
    for part in _micro_batches(updates, examples, settings):
        lengths = [batch.row_length(row) for row in part]
        size = batch.aligned(max(lengths)) * len(part)
        positions += size
        longest = max(longest, size)
        scored = max(scored, sum(len(e.chosen) + len(e.rejected) for row in part for e in row))
        tokens += sum(lengths)
        packed_rows += len(part)
        operations += sum(cost.micro_batch(part, objective) for objective in objectives)
    if (
        settings.reference == "cache" and "dpo" in objectives
    ):  # each pair once; of a cache that is there, less
        operations += sum(cost.forward([e], SIDES["dpo"]) + cost.vision for e in examples)
    seen = [examples.records[i] for update in updates for i in update]
    rate, device = _rate(backbone.device)
    hours = operations / 1e12 / rate / settings.processes / 3600 if rate else None
    facts = {
        "objective": settings.objective,
        "trained": settings.trained,
        "updates": len(updates),
        "length_by": f"steps {settings.steps}" if settings.steps else f"epochs {settings.epochs:g}",
        "pairs": len(pairs),
        "pairs_seen": len(seen),
        **_by_objective(seen, left_out, settings),
        "held_out_pairs": len(held_out),
        "captions": len(read_captions(run)),
        "packed_rows": packed_rows,
        "tokens": tokens,
        "padding": round(1 - tokens / positions, 4),
        "answers_cut": examples.cut,
        "attention": settings.attention,
        "vision_cache": reference.describe_features(cache_folder(run), settings),
        "objectives": objectives,
        "checkpoint_every": settings.checkpoint_every,
        "early_stop": settings.early_stop,
        "processes": f"{settings.processes} ({settings.parallel})",
        "memory_gb": round(_memory(backbone, settings, longest, scored).total / 1e9, 3),
        "tera_operations": round(operations / 1e12, 4),
        "hours": "unknown for this device" if hours is None else float(f"{hours:.2g}"),
        "rate": device,
    }
    if settings.objective == "dpo":
        known = [pair for pair in (*pairs, *held_out) if isinstance(pair, Pair)]
        facts["reference"] = reference.describe_references(cache_folder(run), known, settings)
    run.note(plan=facts)
    return facts


def _by_objective(
    seen: Sequence[Record], left_out: Counter[str], settings: TrainConfig
) -> dict[str, Any]:
    if settings.objective == "dpo":
        return {"description_pairs_seen": sum(kind_of(r) == "description" for r in seen)}
    sources = Counter(record.source for record in seen)
    return {"left_out": dict(left_out), "seen_by_source": dict(sorted(sources.items()))}


def _micro_batches(
    updates: Sequence[Sequence[int]], examples: Examples, settings: TrainConfig
) -> Iterator[list[list[Example]]]:
    for update in updates:
        rows = by_length(batch.grouped([examples[i] for i in update], settings.pairs_per_row))
        yield from micro_batches(rows, settings.micro_batch_pairs)


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """Operations (a multiplication and an addition are two) of the parts of a backbone."""

    linear: float  # of the language model's layers, per position
    attention: float  # per pair of positions of which one looks at the other
    head: float  # per answer token
    lora: float  # per position
    vision: float  # per image, connector included
    settings: TrainConfig

    @classmethod
    def of(cls, backbone: Backbone, settings: TrainConfig) -> _Cost:
        """The costs of a backbone, its vision encoder counted on one picture."""
        config = backbone.language_model.config
        width, inner, depth = config.hidden_size, config.intermediate_size, config.num_hidden_layers
        return cls(
            linear=2 * (4 * width**2 + 3 * width * inner) * depth,
            attention=4 * width * depth,
            head=2 * width * len(backbone.lm_head_weight),
            lora=2 * _lora_weights(backbone, settings),
            vision=_vision_operations(backbone),
            settings=settings,
        )

    def micro_batch(self, rows: Sequence[Sequence[Example]], objective: str) -> float:
        """Policy forward and backward, the reference where it is no cache, each image once."""
        total = self.vision * len({row[0].image for row in rows})
        for row in rows:
            total += self._visit(row, SIDES[objective], objective)
        return total

    def forward(self, row: Sequence[Example], sides: Sequence[str]) -> float:
        """One pass of the base over a row, its answer tokens scored."""
        positions, looks, answers = _sizes(row, sides)
        return self.linear * positions + self.attention * looks + self.head * answers

    def _visit(self, row: Sequence[Example], sides: Sequence[str], objective: str) -> float:
        positions, looks, answers = _sizes(row, sides)
        forward = self.forward(row, sides)
        backward = self.linear * positions + _BACKWARD_ATTENTION * self.attention * looks
        total = forward + backward + self.head * answers + 3 * self.lora * positions
        if self.settings.activation_checkpointing:
            total += forward - self.head * answers
        if objective == "dpo" and self.settings.reference == "adapter_off":
            total += forward
        return total


def _sizes(row: Sequence[Example], sides: Sequence[str]) -> tuple[int, int, int]:
    """Positions of a row, pairs of positions of which one looks at the other, answer tokens."""
    positions = batch.row_length(row, sides=sides)
    answers = [[len(getattr(e, side)) for side in sides] for e in row]
    alone = sum(len(e.prefix) + sum(a) for e, a in zip(row, answers, strict=True))
    common = (alone - positions) // (len(row) - 1) if len(row) > 1 else len(row[0].prefix)
    looks = common * (common + 1) // 2
    for example, lengths in zip(row, answers, strict=True):
        for before, own in [
            (common, len(example.prefix) - common),
            *((len(example.prefix), length) for length in lengths),
        ]:
            looks += before * own + own * (own + 1) // 2
    return positions, looks, sum(map(sum, answers))


def _vision_operations(backbone: Backbone) -> float:
    pixels: Tensor = backbone.preprocess(Image.new("RGB", (64, 48)))[None]
    with FlopCounterMode(display=False) as counter:
        backbone.image_tokens(pixels, ("Describe this image in detail.",))
    return float(counter.get_total_flops())


def _rate(device: torch.device) -> tuple[float, str]:
    """10^12 operations a second, 0 where unknown; and what the number rests on."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return _CPU_TFLOPS * threads, f"{threads} CPU threads, {_CPU_TFLOPS * 1000:g} GFLOP/s each"
    name = torch.cuda.get_device_name(device)
    for part, (peak, share) in _RATES.items():
        if part in name:
            return peak * share, f"{name}: {100 * share:.0f} % of {peak} TFLOP/s"
    return 0.0, name


def _lora_weights(backbone: Backbone, settings: TrainConfig) -> int:
    targets = names(settings.lora_targets)
    return sum(
        settings.lora_rank * (module.in_features + module.out_features)
        for name, module in backbone.language_model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in targets
    )


def _memory(
    backbone: Backbone, settings: TrainConfig, positions: int, scored: int
) -> memory.Estimate:
    """What a step on the largest micro-batch keeps: `positions`, of them `scored` answer tokens."""
    config = backbone.language_model.config
    learns = adapter.trained.parts(settings)
    trained = _lora_weights(backbone, settings) if "adapter" in learns else 0
    if "connector" in learns:
        trained += sum(p.numel() for p in backbone.connector.parameters())
    return memory.of_step(
        memory.Language(
            width=config.hidden_size,
            inner=config.intermediate_size,
            layers=config.num_hidden_layers,
            vocab=len(backbone.lm_head_weight),
        ),
        settings,
        weights=float(sum(p.numel() * p.element_size() for p in backbone.parameters())),
        trained=trained,
        number_bytes=backbone.embedding.weight.element_size(),
        positions=positions,
        scored=scored,
    )
