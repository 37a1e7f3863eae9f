"""The stage: reads pairs, trains the adapter and its controls, replays what was done before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hadpo import adapter, backbones, batch
from hadpo.backbones._base import Backbone
from hadpo.backbones._prompt import IMAGE
from hadpo.config import TrainConfig
from hadpo.records import Pair, input_hashes, read_jsonl
from hadpo.trainer import checkpoints, endings, launch, log, order, sharding, trackers
from hadpo.trainer.loop import StepMetrics, steps
from hadpo.trainer.objective import Objective

if TYPE_CHECKING:
    from hadpo.runs import Run

# plan, decode_batch and train of one notebook share the weights they load.
_LOADED: WeakKeyDictionary[Any, Backbone] = WeakKeyDictionary()


def train(run: Run) -> Iterator[StepMetrics]:
    """Train the run's adapter, then each control, on the pairs of the stage prepare.

    What was finished before is read from `metrics.jsonl` and yielded again; an objective that was
    interrupted goes on from its newest checkpoint. For `processes` above 1 this process starts
    them, and yields what they write.

    Args:
        run: an open train stage; gets `metrics.jsonl`, `adapter/`, `controls/<name>/adapter/`.

    Raises:
        BadInput: settings or pairs that do not fit.
        BadEnvironment: the disk is full, or memory ran out; the message says what was saved.
        FloatingPointError: the loss is not a number.
        Stopped: SIGTERM came; the state is saved.
    """
    settings = run.recipe.train
    order.check(settings)
    objectives = objectives_of(settings)
    is_missing = [not _is_trained(run, objective) for objective in objectives]
    path = run.path("metrics.jsonl")
    kept = [step for step in log.read(path) if _is_kept(run, step)]
    if launch.is_first():
        log.write(path, kept)
    if any(is_missing):
        run.note(inputs=_inputs(run))
    with endings.told(run.folder):
        if any(is_missing) and settings.processes > 1 and not launch.is_one_of_several():
            _LOADED.pop(run, None)  # the processes need its memory
            yield from kept
            yield from launch.follow(run)
        else:
            for objective in objectives:
                yield from (step for step in kept if step.objective == objective)
                if not _is_trained(run, objective):
                    yield from _train_here(run, objective)
    pairs, held_out = read_pairs(run)
    skipped: Counter[str] = Counter()
    for step in log.read(path):
        skipped[step.objective] += int(step.metrics.get("skipped_updates") or 0)
    facts = {"pairs": len(pairs), "held_out": len(held_out), "objectives": objectives}
    run.note(**facts, skipped_updates=dict(skipped))


def _train_here(run: Run, objective: Objective) -> Iterator[StepMetrics]:
    """One objective in this process, which may be one of several: the first one writes."""
    settings = run.recipe.train
    pairs, held_out = read_pairs(run)
    backbone = loaded(run)
    try:
        with trackers.opened(run, objective, is_cpu=backbone.device.type == "cpu") as track:
            for step in steps(
                backbone,
                pairs,
                settings,
                folder=run.path("checkpoints", objective),
                objective=objective,
                held_out=held_out,
                cache=cache_folder(run),
            ):
                if launch.is_first():
                    run.log(log.as_line(step))
                track(step)
                yield step
        sharding.gather_trained(backbone)
        if launch.is_first():
            adapter.save(backbone, adapter_folder(run, objective))
    finally:  # a cell that was interrupted may be run again: the next training starts clean
        adapter.detach(backbone)
        if sharding.is_on():
            _LOADED.pop(run, None)  # of its weights only parts are left here


def objectives_of(settings: TrainConfig) -> list[Objective]:
    """What is trained, one after the other: the run itself, then its control."""
    return ["dpo", "sft"] if "sft" in order.control_names(settings) else ["dpo"]


def _is_trained(run: Run, objective: str) -> bool:
    return (adapter_folder(run, objective) / "adapter_config.json").is_file()


def _is_kept(run: Run, step: StepMetrics) -> bool:
    """Whether a restart will not make this step again."""
    done = checkpoints.last_step(run.path("checkpoints", step.objective))
    return _is_trained(run, step.objective) or step.step < done


def decode_batch(run: Run, n: int) -> list[dict[str, Any]]:
    """The first `n` pairs of the first update: exactly the tokens that the loss sees.

    The texts are read back from the packed rows, so a mistake in the packing shows here.
    """
    settings = run.recipe.train
    pairs, _ = read_pairs(run)
    backbone = loaded(run)
    images = [pair.image for pair in pairs]
    first = order.batches([pair.kind for pair in pairs], settings, images=images)[0][:n]
    rows = []
    for i in first:
        pair = pairs[i]
        example = batch.tokenize(backbone, pair, max_length=settings.max_length)
        packed = batch.pack([example])
        count = packed.lengths[:, 0].tolist()
        chosen, rejected = packed.targets.split(count)
        ids = packed.ids[0].tolist()
        start = ids.index(IMAGE)
        end = start + ids.count(IMAGE)
        prompt = backbone.tokenizer.pieces(ids[:start])
        prompt += [f"<image x {end - start}>"]
        prompt += backbone.tokenizer.pieces(ids[end : len(example.prefix)])
        rows.append(
            {
                "pair_id": pair.pair_id,
                "kind": pair.kind,
                "image": pair.image,
                "prompt_pieces": prompt,
                "chosen_pieces": backbone.tokenizer.pieces(chosen.tolist()),
                "rejected_pieces": backbone.tokenizer.pieces(rejected.tolist()),
                "prompt": pair.instruction,
                "chosen": backbone.decode(chosen.tolist()),
                "rejected": backbone.decode(rejected.tolist()),
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


def read_pairs(run: Run) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs that were held out, as the stage prepare wrote them."""
    path = run.earlier("prepare", "pairs.jsonl")
    held_out = path.with_name("held_out.jsonl")
    return (
        list(read_jsonl(path, Pair)),
        list(read_jsonl(held_out, Pair)) if held_out.is_file() else [],
    )


def _inputs(run: Run) -> dict[str, str]:
    """Hashes of what a training rests on: pairs and the base's files."""
    pairs = run.earlier("prepare", "pairs.jsonl")
    weights = backbones.files_of(run.recipe, run.resolve)
    places = [pairs, pairs.with_name("held_out.jsonl"), *weights.values()]
    return input_hashes(places, below=run.folder.parent)


def adapter_folder(run: Run, objective: str) -> Path:
    """Where the adapter of an objective lies."""
    if objective == "dpo":
        return run.path("adapter")
    return run.path("controls", objective, "adapter")


def cache_folder(run: Run) -> Path:
    """Where the reference's log-probabilities lie: beside the pairs, one folder per backbone."""
    model = run.recipe.model
    name = model.backbone.replace("/", "-") if model else "none"
    return run.earlier("prepare", "pairs.jsonl").parent / "reference" / name
