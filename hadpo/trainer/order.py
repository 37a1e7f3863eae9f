"""Which pairs meet in which update, and how fast each update learns: pure functions."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from hadpo import batch
from hadpo.batch.examples import Kind
from hadpo.config import TrainConfig, amounts, names
from hadpo.records import BadInput
from hadpo.trainer.examples import Record, kind_of


def batches(
    kinds: Sequence[Kind],
    settings: TrainConfig,
    *,
    images: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> list[list[int]]:
    """Indices of the pairs of every update, in order; the same for every machine and rerun.

    The pairs (with their copies) are shuffled once per epoch and taken as they come; the last
    update may be smaller. Pairs with a `description_share`: every update draws that share of its
    pairs from the description pairs and the rest from the others, each in shuffled passes of its
    own. Instructions with a `mixture`: each source is shuffled on its own, and after every draw
    each has had its share as nearly as whole draws allow.
    With `pairs_per_row` above 1, what is shuffled is not pairs but groups of so many pairs of one
    image, so that they meet in an update and can share a row: each update sees fewer images.

    Args:
        kinds: kind of each pair.
        images: image of each pair; needed for `pairs_per_row` above 1.
        sources: source of each pair; needed for a `mixture`.
        settings: epochs or steps, batch size, share, mixture, copies and seed are read.

    Raises:
        BadInput: no pairs, or a share of a kind or source that has none.
    """
    pool = copies(kinds, settings)
    if not pool:
        raise BadInput("no pairs to train on; look at what the stage prepare wrote")

    def passes(part: Sequence[int], name: str) -> Iterator[int]:
        groups = batch.grouped(part, settings.pairs_per_row, image=lambda i: images[i])
        return _passes(groups, f"{settings.train_seed}/{name}")

    size, share = settings.batch_pairs, settings.description_share
    total = settings.steps * size or round(settings.epochs * len(pool))
    if share < 0 or settings.objective == "sft":
        shares = mixture(settings)
        stream = _mixed(pool, shares, sources, passes) if shares else passes(pool, "all")
        order = [next(stream) for _ in range(total)]
        return [order[i : i + size] for i in range(0, total, size)]
    n_description = round(share * size)
    counts = {"description": n_description, "pope": size - n_description}
    streams = {}
    for kind, count in counts.items():
        part = [i for i in pool if kinds[i] == kind]
        if count and not part:
            raise BadInput(
                f"description_share {share} asks for {count} {kind} pairs in each batch, but "
                "there are none"
            )
        streams[kind] = passes(part, kind)
    return [
        [next(streams[kind]) for kind, count in counts.items() for _ in range(count)]
        for _ in range(math.ceil(total / size))
    ]


def batches_of_records(records: Sequence[Record], settings: TrainConfig) -> list[list[int]]:
    """`batches` of records, by their kinds, images and sources."""
    return batches(
        [kind_of(record) for record in records],
        settings,
        images=[record.image for record in records],
        sources=[record.source for record in records],
    )


def captions(count: int, plan: Sequence[Sequence[int]], settings: TrainConfig) -> list[list[int]]:
    """Which of `count` captions each update learns from: as many as pairs, in shuffled passes."""
    if not count:
        return [[] for _ in plan]
    stream = _passes([[i] for i in range(count)], f"{settings.train_seed}/captions")
    return [[next(stream) for _ in update] for update in plan]


def copies(kinds: Sequence[Kind], settings: TrainConfig) -> list[int]:
    """Indices of the pairs, each as often as its kind is repeated."""
    times = {"description": settings.repeat_description, "pope": settings.repeat_pope}
    return [i for i, kind in enumerate(kinds) for _ in range(times.get(kind, 1))]


def mixture(settings: TrainConfig) -> dict[str, float]:
    """Share of each source; empty: all records are drawn as they lie.

    Raises:
        BadInput: not "source=share, source=share", or shares that do not sum to 1.
    """
    try:
        shares = amounts(settings.mixture)
    except ValueError:
        shares = {"": -1.0}
    if shares and (min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6):
        raise BadInput(
            f"mixture: found {settings.mixture!r}, expected source=share, source=share, with "
            "shares above 0 that sum to 1"
        )
    return shares


def learning_rate(step: int, total: int, settings: TrainConfig) -> float:
    """Rate of update `step` (from 0): linear warm-up, then what the schedule says.

    `cosine` and `linear` fall over the updates behind the warm-up, to `min_learning_rate` or 0.
    `cosine_from_start` is MiniGPT-4's linear_warmup_cosine_lr (common/optims.py): its cosine counts
    from the first update, so it goes on a little below the peak where the warm-up ends. (There the
    warm-up starts anew with each epoch that it spans; no published setting spans one.)
    """
    peak, low = settings.learning_rate, settings.min_learning_rate
    warmup = settings.warmup_steps or math.ceil(settings.warmup_share * total)
    if step < warmup:
        start = settings.warmup_learning_rate
        return start + (peak - start) * step / warmup
    if settings.schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, total - warmup)
    if settings.schedule == "linear":
        return peak * (1 - progress)
    if settings.schedule == "cosine_from_start":
        progress = step / total
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * progress))


def check(settings: TrainConfig) -> None:
    """Refuse settings that contradict each other, all at once, before a model is loaded.

    Raises:
        BadInput: one line per problem.
    """
    is_dpo, is_sft = settings.objective == "dpo", settings.objective == "sft"
    is_sharded = settings.parallel != "ddp" and settings.processes > 1
    # HA-DPO's LLaVA trained its projector by accident, and read policy and reference through it.
    is_published = settings.trained == "adapter+connector" and settings.reference == "adapter_off"
    rates, steps = amounts(settings.control_learning_rate), amounts(settings.control_steps)
    named = names(settings.controls)  # none: the rates that a recipe has for them say nothing
    other = sorted({*rates, *steps} - {"", *named}) if named else []
    problems = {
        "steps and epochs are both 0; set one of them": not settings.steps and not settings.epochs,
        f"label_smoothing works with loss: sigmoid, found {settings.loss}": (
            settings.label_smoothing and settings.loss != "sigmoid"
        ),
        "beta: ipo divides by it, found 0": settings.loss == "ipo" and not settings.beta,
        f"pairs_per_row: found {settings.pairs_per_row}, expected at most micro_batch_pairs "
        f"({settings.micro_batch_pairs})": settings.pairs_per_row > settings.micro_batch_pairs,
        f"parallel: {settings.parallel} breaks reference: {settings.reference}; set "
        "reference: cache": is_sharded and settings.reference != "cache",
        f"keep_steps: with parallel: {settings.parallel} no process holds all weights before "
        "the end; set keep_steps: false, or parallel: ddp": is_sharded and settings.keep_steps,
        f"trained: found {settings.trained} with objective: dpo; the reference is the same "
        "model with the adapter off, and a connector that learns would change it, too; set "
        "trained: adapter, or objective: sft (or, as HA-DPO ran LLaVA, adapter+connector with "
        "reference: adapter_off)": is_dpo and settings.trained != "adapter" and not is_published,
        f"controls: found {settings.controls!r}, but objective: sft has none": (
            is_sft and names(settings.controls)
        ),
        "mixture: pairs are mixed by description_share; it needs objective: sft": (
            is_dpo and settings.mixture
        ),
        f"min_learning_rate: found {settings.min_learning_rate}, expected at most "
        f"learning_rate ({settings.learning_rate})": (
            settings.min_learning_rate > settings.learning_rate
        ),
    }
    found = [problem for problem, is_there in problems.items() if is_there]
    try:
        mixture(settings)
    except BadInput as error:
        found.append(str(error))
    for name, count in steps.items():
        if count != int(count):
            found.append(f"control_steps: found {count:g} for {name or 'all'}, expected updates")
    if other:
        found.append(
            f"control_learning_rate or control_steps names {', '.join(other)}; controls are: "
            f"{settings.controls!r}"
        )
    if found:
        raise BadInput("train settings:\n  " + "\n  ".join(found))


def _mixed(
    pool: Sequence[int],
    shares: Mapping[str, float],
    sources: Sequence[str],
    passes: Callable[[Sequence[int], str], Iterator[int]],
) -> Iterator[int]:
    """Draws from passes over each source; next comes the source that is farthest behind."""
    known = sorted({sources[i] for i in pool})
    problems = [f"nothing of {name}" for name in shares if name not in known]
    problems += [f"no share for {name}" for name in known if name not in shares]
    if problems:
        raise BadInput(f"mixture: {'; '.join(problems)}; the sources are {', '.join(known)}")
    streams = {name: passes([i for i in pool if sources[i] == name], name) for name in known}
    drawn = dict.fromkeys(shares, 0)
    for count in itertools.count(1):
        name = max(shares, key=lambda n: shares[n] * count - drawn[n])
        drawn[name] += 1
        yield next(streams[name])


def _passes(groups: Sequence[list[int]], seed: str) -> Iterator[int]:
    """Shuffled passes over the groups, without end; a group stays together."""
    for epoch in itertools.count():
        order = list(groups)
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for group in order:
            yield from group
