"""The stage: reads pairs, trains the adapter and its controls, replays what was done before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from hadpo import adapter, backbones, batch, cost
from hadpo.batch.packing import by_length, micro_batches
from hadpo.config import RANKED_CONTROLS, TrainConfig, amounts, names
from hadpo.records import BadInput, Instruction, Pair, input_hashes, read_jsonl
from hadpo.trainer import checkpoints, launch, order, reference, sharding
from hadpo.trainer.examples import Examples, Record, kind_of
from hadpo.trainer.loop import StepMetrics, steps
from hadpo.trainer.objective import SIDES, Objective
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.prompt import IMAGE

if TYPE_CHECKING:
    from hadpo.runs import Run


_SAMPLE = 200  # updates that a plan looks at, and pairs of a cache
# plan, decode_batch and train of one notebook share the weights that they load.
_BACKBONES: WeakKeyDictionary[Any, Backbone] = WeakKeyDictionary()


def train(run: Run) -> Iterator[StepMetrics]:
    """Train what the recipe says, then each control, on the records of the stage prepare.

    What was finished before is read from `metrics.jsonl` and yielded again; an objective that was
    interrupted goes on from its newest checkpoint. For `processes` above 1 this process starts
    them, and yields what they write.

    Args:
        run: an open train stage; gets `metrics.jsonl`, `adapter/` or `connector/` or both,
            `controls/<name>/adapter/`, and with `keep_steps` the same in `steps/step-<n>/`.

    Raises:
        BadInput: settings or pairs that do not fit.
        BadEnvironment: the disk is full, or memory ran out; the message says what was saved.
        FloatingPointError: the loss is not a number.
        Stopped: SIGTERM came; the state is saved.
    """
    settings = run.recipe.train
    order.check(settings)
    methods = methods_of(settings)
    is_missing = [not _is_trained(run, method) for method in methods]
    pairs, held_out = read_records(run)
    records: dict[str, list[Record]] = {}
    path = run.path("metrics.jsonl")
    kept = [step for step in launch.read_steps(path) if _is_kept(run, step)]
    if launch.is_first():
        launch.write_steps(path, kept)
    if any(is_missing):
        run.note(inputs=_inputs(run))
        # What a control lacks is said before anything is trained.
        records = {method: _records_of(run, method, pairs, held_out) for method in methods}
    with checkpoints.explain_endings(run.folder):
        if any(is_missing) and settings.processes > 1 and not launch.is_one_of_several():
            _BACKBONES.pop(run, None)  # the processes need its memory
            torch.cuda.empty_cache()  # nothing without a GPU
            yield from kept
            yield from launch.follow(run)
        else:
            for method in methods:
                yield from (step for step in kept if step.objective == method)
                if not _is_trained(run, method):
                    yield from _train_here(run, method, records[method], held_out)
    skipped: Counter[str] = Counter()
    for step in launch.read_steps(path):
        skipped[step.objective] += int(step.metrics.get("skipped_updates") or 0)
    facts = {"pairs": len(pairs), "held_out": len(held_out), "objectives": methods}
    folders = [adapter_folder(run, method).parent for method in methods]
    places = [folder / part for folder in folders for part in ("adapter", "connector")]
    weights = input_hashes(places, below=run.folder.parent)
    run.note(**facts, skipped_updates=dict(skipped), weights=weights)


def _train_here(
    run: Run, method: str, records: Sequence[Record], held_out: Sequence[Record]
) -> Iterator[StepMetrics]:
    """One method in this process, which may be one of several: the first one writes."""
    objective, settings = settings_of(run.recipe.train, method)
    backbone = load_backbone(run)
    try:
        with launch.open_trackers(run, method, is_cpu=backbone.device.type == "cpu") as track:
            for step in steps(
                backbone,
                records,
                settings,
                folder=run.path("checkpoints", method),
                objective=objective,
                held_out=held_out,
                captions=read_captions(run) if objective == "dpo" and settings.gamma else [],
                cache=cache_folder(run),
            ):
                step = replace(step, objective=method)
                if launch.is_first():
                    run.log(launch.step_line(step))
                    is_kept = settings.keep_steps and method == run.recipe.train.objective
                    if is_kept and (step.step + 1) % settings.checkpoint_every == 0:
                        adapter.trained.save(backbone, run.path("steps", f"step-{step.step + 1}"))
                track(step)
                yield step
        sharding.gather_trained(backbone)
        if launch.is_first():
            adapter.trained.save(backbone, adapter_folder(run, method).parent)
    finally:  # a cell that was interrupted may be run again: the next training starts clean
        adapter.trained.end(backbone)
        if sharding.is_on():
            _BACKBONES.pop(run, None)  # only shards of its weights are left here


def methods_of(settings: TrainConfig) -> list[str]:
    """What is trained, one after the other: the run itself, named as its objective; controls."""
    return [settings.objective, *names(settings.controls)]


def settings_of(settings: TrainConfig, method: str) -> tuple[Objective, TrainConfig]:
    """Objective and settings of the run itself, or of one of its controls."""
    if method == settings.objective:
        return settings.objective, settings
    rates, steps = amounts(settings.control_learning_rate), amounts(settings.control_steps)
    own = replace(
        settings,
        learning_rate=rates.get(method, rates.get("", settings.learning_rate)),
        steps=int(steps.get(method, steps.get("", settings.steps))),
        gamma=0.0 if method == "dpo_alone" else settings.gamma,
    )
    return "dpo" if method == "dpo_alone" else "sft", own


def _is_trained(run: Run, objective: str) -> bool:
    return adapter.trained.is_saved(adapter_folder(run, objective).parent, run.recipe.train)


def _is_kept(run: Run, step: StepMetrics) -> bool:
    """Whether a restart will not make this step again."""
    done = checkpoints.last_step(run.path("checkpoints", step.objective))
    return _is_trained(run, step.objective) or step.step < done


def plan(run: Run) -> dict[str, Any]:
    """What a training will do, before it does it.

    Returns:
        Updates, pairs, tokens, share of padding, answers that are cut; by estimate, memory in GB of
        one process, 10^12 operations, and hours if the device's rate is known.
    """
    settings = run.recipe.train
    order.check(settings)
    pairs, held_out = read_records(run)
    backbone = load_backbone(run)
    examples = Examples(backbone, pairs, settings)
    updates = order.batches_of_records(examples.records, settings)
    layout, needs = _estimate(backbone, examples, updates, settings)
    seen = [examples.records[i] for update in updates for i in update]
    facts = {
        "objective": settings.objective,
        "trained": settings.trained,
        "updates": len(updates),
        "length_by": f"steps {settings.steps}" if settings.steps else f"epochs {settings.epochs:g}",
        "pairs": len(pairs),
        "pairs_seen": len(seen),
        "left_out": dict(examples.left_out),
    }
    if settings.objective == "dpo":
        facts["description_pairs_seen"] = sum(kind_of(record) == "description" for record in seen)
    else:
        facts["seen_by_source"] = dict(sorted(Counter(r.source for r in seen).items()))
    facts |= {
        "held_out_pairs": len(held_out),
        "captions": len(read_captions(run)),
        **layout,
        "answers_cut": examples.cut,
        "attention": settings.attention,
        "allow_tf32": settings.allow_tf32,
        "exif": backbone.exif,
        "kernels": backbone.kernels,
        "rows": backbone.row_kind,
        "vision_cache": reference.describe_features(cache_folder(run), settings),
        "objectives": methods_of(settings),
        "checkpoint_every": settings.checkpoint_every,
        "early_stop": settings.early_stop,
        "processes": f"{settings.processes} ({settings.parallel})",
        **needs,
    }
    if settings.objective == "dpo":
        known = [pair for pair in (*pairs, *held_out) if isinstance(pair, Pair)]
        facts["reference"] = reference.describe_references(cache_folder(run), known, settings)
    run.note(plan=facts)
    return facts


def _estimate(
    backbone: Backbone,
    examples: Examples,
    updates: Sequence[Sequence[int]],
    settings: TrainConfig,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How the rows of all updates are laid out, and what they need."""
    sizes, number_bytes = backbone.sizes, backbone.dtype.itemsize
    used_on = backbone.device.type
    objectives = [settings_of(settings, method)[0] for method in methods_of(settings)]
    lora_weights = sizes.lora_weights(settings.lora_rank, settings.lora_targets)
    vision = _vision_operations(backbone)
    price = cost.Operations.of(sizes, lora_weights=lora_weights, vision=vision)
    positions = tokens = largest = scored = packed_rows = 0
    works: list[cost.Work] = []
    # At most `_SAMPLE` updates, evenly spread: 200 of 4,000 are 0.2 % off in the mean, 0.5 % at
    # worst; making all examples takes minutes.
    sample = updates[:: -(-len(updates) // _SAMPLE)]
    scale = len(updates) / len(sample)
    for update in sample:
        rows = by_length(batch.grouped([examples[i] for i in update], settings.pairs_per_row))
        for part in micro_batches(rows, settings.micro_batch_pairs):
            lengths = [batch.row_length(row) for row in part]
            size = batch.aligned(max(lengths), used_on) * len(part)
            positions, tokens = positions + size, tokens + sum(lengths)
            largest = max(largest, size)
            scored = max(scored, sum(batch.row_sizes(row).scored for row in part))
            packed_rows += len(part)
            works += [
                cost.Work.of_step(
                    sizes,
                    settings,
                    price,
                    [batch.row_sizes(row, sides=SIDES[objective]) for row in part],
                    images=len({row[0].image for row in part}),
                    objective=objective,
                    number_bytes=number_bytes,
                    positions=size,
                )
                for objective in objectives
            ]
    padding = round(1 - tokens / positions, 4)
    if scale > 1:  # the longest rows may not be in the sample
        longest = batch.aligned(examples.longest, used_on)
        largest = max(largest, longest * settings.micro_batch_pairs)
    extra = 0.0
    if settings.reference == "cache" and "dpo" in objectives:  # each pair once; if cached, less
        some = range(0, len(examples), -(-len(examples) // _SAMPLE))
        each = sum(price.forward(batch.row_sizes([examples[i]])) + price.vision for i in some)
        extra = each * len(examples) / len(some)
    parts = adapter.trained.parts(settings)
    connector = sum(p.numel() for p in backbone.connector.parameters())
    memory = cost.step_memory(
        sizes,
        settings,
        weights=float(sum(p.numel() * p.element_size() for p in backbone.parameters())),
        trained=lora_weights * ("adapter" in parts) + connector * ("connector" in parts),
        number_bytes=number_bytes,
        positions=largest,
        scored=scored,
    )
    operations = scale * sum(work.operations for work in works) + extra
    if used_on == "cpu":
        rate, device = cost.cpu_rate(torch.get_num_threads())
        seconds = operations / 1e12 / rate
    else:
        name = torch.cuda.get_device_name(backbone.device)
        gpu, device = cost.gpu_of(name), f"{name}: modelled, no GPU was timed yet"
        works.append(cost.Work(operations=extra / scale))
        each = [gpu.seconds(work, number_bytes=number_bytes) for work in works] if gpu else []
        seconds = scale * sum(each)
    hours = seconds / settings.processes / 3600
    layout = {"packed_rows": round(packed_rows * scale), "tokens": round(tokens * scale)}
    return layout | {"padding": padding}, {
        "memory_gb": round(memory.total / 1e9, 3),
        "tera_operations": round(operations / 1e12, 4),
        "hours": float(f"{hours:.2g}") if hours else "unknown for this device",
        "rate": device,
    }


def _vision_operations(backbone: Backbone) -> float:
    """Operations of an image, connector included: counted on one picture."""
    pixels = backbone.stack([backbone.preprocess(Image.new("RGB", (64, 48), "grey"))])
    with FlopCounterMode(display=False) as counter:
        backbone.image_tokens(pixels, ("Describe this image in detail.",))
    return float(counter.get_total_flops())


def decode_batch(run: Run, n: int) -> list[dict[str, Any]]:
    """The first `n` records of the first update: exactly the tokens that the loss sees.

    The texts are read back from the packed rows, so a mistake in the packing shows here.
    """
    settings = run.recipe.train
    records, _ = read_records(run)
    backbone = load_backbone(run)
    examples = Examples(backbone, records, settings)
    sides = SIDES[settings.objective]
    rows = []
    for i in order.batches_of_records(examples.records, settings)[0][:n]:
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


def load_backbone(run: Run) -> Backbone:
    """The run's backbone; read from disk once per run."""
    if run not in _BACKBONES:
        files = backbones.files_of(run.recipe, run.resolve)
        _BACKBONES[run] = backbones.load_for(run.recipe, files)
    return _BACKBONES[run]


def read_records(run: Run, method: str = "") -> tuple[list[Record], list[Record]]:
    """Pairs or instructions to train on, and those that are held out.

    Controls read the run's own, but for those that prepare wrote texts of their own for: these take
    the place of the descriptions, held-out images left out.

    Raises:
        BadInput: a control needs texts that prepare did not write, or there are none.
    """
    kind = Pair if run.recipe.train.objective == "dpo" else Instruction
    train, *rest = ([*read_jsonl(path, kind)] for path in _record_files(run))
    held_out: list[Record] = [*rest[0]] if rest else []
    return _records_of(run, method, [*train], held_out), held_out


def _records_of(
    run: Run, method: str, records: list[Record], held_out: Sequence[Record]
) -> list[Record]:
    if method not in RANKED_CONTROLS:
        return records
    path = _record_files(run)[0].parent / "controls" / f"{method}.jsonl"
    away = {record.image_id for record in held_out}
    own = read_jsonl(path, Pair) if path.is_file() else []
    texts = [pair for pair in own if pair.image_id not in away]
    if not texts:
        found = "prepare found no such text" if path.is_file() else f"there is no {path}"
        raise BadInput(
            f"controls: {method}: {found}; take it out of controls, or prepare with "
            "pair_source: ranked"
        )
    return [*texts, *(record for record in records if kind_of(record) != "description")]


def read_captions(run: Run) -> list[Record]:
    """What the auxiliary term learns from, if that is not the chosen answers.

    Raises:
        BadInput: the stage prepare wrote no instructions.
    """
    settings = run.recipe.train
    if not settings.gamma or settings.gamma_on == "chosen" or settings.objective != "dpo":
        return []
    path = run.earlier("prepare", "pairs.jsonl").with_name("instructions.jsonl")
    captions = list(read_jsonl(path, Instruction)) if path.is_file() else []
    if not captions:
        raise BadInput(
            f"gamma_on: instructions, but there is no {path}; name some in the recipe's "
            "data.instructions and redo prepare, or set gamma_on: chosen"
        )
    return [*captions]


def _record_files(run: Run) -> list[Path]:
    """What prepare wrote for the objective; the held-out records, if there are any."""
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
    captions = [run.earlier("prepare").joinpath("instructions.jsonl")] if read_captions(run) else []
    places = [*_record_files(run), *captions, *weights.values()]
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


@torch.no_grad()
def held_out_margins(run: Run, *, most: int = 0) -> list[tuple[Pair, float]]:
    """The first `most` held-out pairs (0: all) with their reward margins, largest first.

    The margin is beta times how much further the trained policy prefers chosen to rejected than the
    reference does; below zero, the pair is still the wrong way round. Instructions have none.
    """
    settings = run.recipe.train
    _, records = read_records(run)
    held_out = [record for record in records if isinstance(record, Pair)]
    held_out = held_out[: most or None]
    if not held_out:
        return []
    backbone = load_backbone(run)
    adapter.load(backbone, adapter_folder(run, "dpo"))
    try:
        margins: list[float] = []
        for i in range(0, len(held_out), settings.micro_batch_pairs):
            part = held_out[i : i + settings.micro_batch_pairs]
            length = settings.max_length
            rows = [batch.tokenize(backbone, pair, max_length=length) for pair in part]
            packed = batch.pack(rows)
            pixels = batch.read_pixels(backbone, packed.images)
            embeds = batch.embed(backbone, packed.to(backbone.device), pixels)
            with adapter.disabled(backbone):
                reference = batch.answer_logps(backbone, packed.to(backbone.device), embeds)
            gain = batch.answer_logps(backbone, packed.to(backbone.device), embeds) - reference
            margins += (settings.beta * (gain[0] - gain[1])).tolist()
    finally:
        adapter.detach(backbone)
    return sorted(zip(held_out, margins, strict=True), key=lambda pair: -pair[1])
