"""The stage: reads pairs, trains the adapter and its controls, replays what was done before."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hadpo import adapter, backbones, batch
from hadpo.backbones._base import Backbone
from hadpo.backbones._prompt import IMAGE
from hadpo.batch import Example
from hadpo.config import TrainConfig
from hadpo.records import Instruction, Pair, input_hashes, read_jsonl, write_text
from hadpo.trainer import checkpoints, order, reference
from hadpo.trainer.examples import Record, tokenized
from hadpo.trainer.layout import by_length, micro_batches
from hadpo.trainer.loop import StepMetrics, steps
from hadpo.trainer.objective import SIDES, Objective

if TYPE_CHECKING:
    from hadpo.runs import Run

# plan, decode_batch and train of one notebook share the weights they load.
_LOADED: WeakKeyDictionary[Any, Backbone] = WeakKeyDictionary()


def train(run: Run) -> Iterator[StepMetrics]:
    """Train what the recipe says, then each control, on the records of the stage prepare.

    What was finished before is read from `metrics.jsonl` and yielded again; an objective that was
    interrupted goes on from its newest checkpoint.

    Args:
        run: an open train stage; gets `metrics.jsonl`, `adapter/` or `connector/` or both, and
            `controls/<name>/adapter/`.

    Raises:
        BadInput: settings or pairs that do not fit.
        FloatingPointError: the loss is not a number.
    """
    settings = run.recipe.train
    order.check(settings)
    objectives: list[Objective] = [settings.objective]
    if "sft" in order.control_names(settings):
        objectives.append("sft")
    pairs, held_out = read_records(run)
    is_first = os.environ.get("RANK", "0") == "0"  # of several processes, one writes
    for objective in objectives:
        target = adapter_folder(run, objective).parent
        logged = _read_metrics(run.path("metrics.jsonl"))
        mine = [step for step in logged if step.objective == objective]
        if adapter.trained.is_saved(target, settings):
            yield from mine
            continue
        folder = run.path("checkpoints", objective)
        done = checkpoints.last_step(folder)
        mine = [step for step in mine if step.step < done]
        others = [step for step in logged if step.objective != objective]
        if is_first:
            _write_metrics(run.path("metrics.jsonl"), [*others, *mine])
        yield from mine
        run.note(inputs=_inputs(run))
        backbone = loaded(run)
        try:
            for step in steps(
                backbone,
                pairs,
                settings,
                folder=folder,
                objective=objective,
                held_out=held_out,
                cache=cache_folder(run),
            ):
                if is_first:
                    run.log(_as_line(step))
                yield step
            if is_first:
                adapter.trained.save(backbone, target)
        finally:  # a cell that was interrupted may be run again: the next training starts clean
            adapter.trained.end(backbone)
    skipped: Counter[str] = Counter()
    for step in _read_metrics(run.path("metrics.jsonl")):
        skipped[step.objective] += int(step.metrics.get("skipped_updates") or 0)
    facts = {"pairs": len(pairs), "held_out": len(held_out), "objectives": objectives}
    run.note(**facts, skipped_updates=dict(skipped))


def plan(run: Run) -> dict[str, Any]:
    """What a training will do, before it does it.

    Returns:
        Updates, pairs, tokens, share of padding, answers that are cut, memory in GB.
    """
    settings = run.recipe.train
    order.check(settings)
    pairs, held_out = read_records(run)
    backbone = loaded(run)
    examples, left_out = tokenized(backbone, pairs, settings)
    updates = order.of_examples(examples, settings)
    positions = tokens = longest = packed_rows = 0
    for update in updates:
        rows = by_length(batch.grouped([examples[i] for i in update], settings.pairs_per_row))
        for part in micro_batches(rows, settings.micro_batch_pairs):
            lengths = [batch.row_length(row) for row in part]
            size = batch.aligned(max(lengths)) * len(part)
            positions += size
            longest = max(longest, size)
            tokens += sum(lengths)
        packed_rows += len(rows)
    seen = [examples[i] for update in updates for i in update]
    facts = {
        "objective": settings.objective,
        "trained": settings.trained,
        "updates": len(updates),
        "length_by": f"steps {settings.steps}" if settings.steps else f"epochs {settings.epochs:g}",
        "pairs": len(pairs),
        "pairs_seen": len(seen),
        **_by_objective(seen, left_out, settings),
        "held_out_pairs": len(held_out),
        "packed_rows": packed_rows,
        "tokens": tokens,
        "padding": round(1 - tokens / positions, 4),
        "answers_cut": sum(e.cut for e in examples),
        "objectives": [settings.objective, *order.control_names(settings)],
        "checkpoint_every": settings.checkpoint_every,
        "early_stop": settings.early_stop,
        "memory_gb": round(_memory_bytes(backbone, settings, longest) / 1e9, 3),
    }
    if settings.objective == "dpo":
        known = [pair for pair in (*pairs, *held_out) if isinstance(pair, Pair)]
        facts["reference"] = reference.describe(cache_folder(run), known, settings)
    run.note(plan=facts)
    return facts


def _by_objective(
    seen: Sequence[Example], left_out: Counter[str], settings: TrainConfig
) -> dict[str, Any]:
    if settings.objective == "dpo":
        return {"description_pairs_seen": sum(e.kind == "description" for e in seen)}
    sources = Counter(example.source for example in seen)
    return {"left_out": dict(left_out), "seen_by_source": dict(sorted(sources.items()))}


def decode_batch(run: Run, n: int) -> list[dict[str, Any]]:
    """The first `n` records of the first update: exactly the tokens that the loss sees.

    The texts are read back from the packed rows, so a mistake in the packing shows here.
    """
    settings = run.recipe.train
    records, _ = read_records(run)
    backbone = loaded(run)
    examples, _ = tokenized(backbone, records, settings)
    sides = SIDES[settings.objective]
    rows = []
    for i in order.of_examples(examples, settings)[0][:n]:
        example = examples[i]
        packed = batch.pack([example], sides=sides)
        answers = packed.targets.split(packed.lengths[:, 0].tolist())
        ids = packed.ids[0].tolist()
        start = ids.index(IMAGE)
        end = start + ids.count(IMAGE)
        prompt = backbone.tokenizer.pieces(ids[:start])
        prompt += [f"<image x {end - start}>"]
        prompt += backbone.tokenizer.pieces(ids[end : len(example.prefix)])
        named = dict(zip(sides, (answer.tolist() for answer in answers), strict=True))
        pieces = {f"{k}_pieces": backbone.tokenizer.pieces(ids) for k, ids in named.items()}
        rows.append(
            {
                "pair_id": example.pair_id,
                "kind": example.kind,
                "image": example.image,
                "prompt_pieces": prompt,
                **pieces,
                "prompt": example.instruction,
                **{name: backbone.decode(ids) for name, ids in named.items()},
                "answers_cut": example.cut,
            }
        )
    return rows


def loaded(run: Run) -> Backbone:
    """The run's backbone; loaded once per run."""
    if run not in _LOADED:
        files = backbones.files_of(run.recipe, run.resolve)
        _LOADED[run] = backbones.load_for(run.recipe, files)
    return _LOADED[run]


def read_records(run: Run) -> tuple[list[Record], list[Record]]:
    """Pairs or instructions to train on, and those that are held out."""
    kind = Pair if run.recipe.train.objective == "dpo" else Instruction
    files = _record_files(run)
    found = [list(read_jsonl(path, kind)) for path in files]
    return [*found[0]], [*found[1]] if len(found) > 1 else []


def _record_files(run: Run) -> list[Path]:
    """What prepare wrote for the objective; the held-out records where there are any."""
    if run.recipe.train.objective == "dpo":
        names = ("pairs.jsonl", "held_out.jsonl")
    else:
        names = ("instructions.jsonl", "held_out_instructions.jsonl")
    first = run.earlier("prepare", names[0])
    held_out = first.with_name(names[1])
    return [first, held_out] if held_out.is_file() else [first]


def _inputs(run: Run) -> dict[str, str]:
    """Hashes of what a training rests on: pairs and the base's files."""
    weights = backbones.files_of(run.recipe, run.resolve)
    places = [*_record_files(run), *weights.values()]
    return input_hashes(places, below=run.folder.parent)


def adapter_folder(run: Run, objective: str) -> Path:
    """Where the adapter of an objective lies."""
    if objective == run.recipe.train.objective:
        return run.path("adapter")
    return run.path("controls", objective, "adapter")


def cache_folder(run: Run) -> Path:
    """Where the reference's log-probabilities lie: beside the pairs, one folder per backbone."""
    model = run.recipe.model
    name = model.backbone.replace("/", "-") if model else "none"
    return run.earlier("prepare", "pairs.jsonl").parent / "reference" / name


def _memory_bytes(backbone: Backbone, settings: TrainConfig, positions: int) -> float:
    """Rough need: weights, 16 bytes per adapter weight, activations of the largest micro-batch.

    Per position and layer a LLaMA keeps about 14 h + 3 I numbers, or h with recomputation.
    """
    config = backbone.language_model.config
    width, inner, depth = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    size = backbone.embedding.weight.element_size()
    weights = sum(p.numel() * p.element_size() for p in backbone.parameters())
    learns = adapter.trained.parts(settings)
    targets = settings.lora_targets.count(",") + 1
    lora = 16 * targets * settings.lora_rank * 2 * width * depth * ("adapter" in learns)
    if "connector" in learns:
        lora += 16 * sum(p.numel() for p in backbone.connector.parameters())
    per_layer = width if settings.activation_checkpointing else 14 * width + 3 * inner
    head = 4 * 2**24  # logits that exist at one time
    return weights + lora + positions * depth * per_layer * size + head


def _as_line(step: StepMetrics) -> dict[str, Any]:
    line = {"objective": step.objective, "step": step.step, "epoch": step.epoch}
    return line | step.metrics


def _read_metrics(path: Path) -> list[StepMetrics]:
    """Lines of an earlier start; a torn last line is dropped."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            values: Mapping[str, Any] = json.loads(line)
            known = ("objective", "step", "epoch")
            metrics = {key: value for key, value in values.items() if key not in known}
            found.append(StepMetrics(**{key: values[key] for key in known}, metrics=metrics))
    return found


def _write_metrics(path: Path, found: list[StepMetrics]) -> None:
    if path.is_file():
        lines = [json.dumps(_as_line(step), allow_nan=False) + "\n" for step in found]
        write_text(path, "".join(lines))
