"""The training loop: a generator that yields what each update was like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hadpo.config import TrainConfig
from hadpo.records import Pair
from hadpo.runs import Stopped, noticed
from hadpo.trainer import order, reference
from hadpo.trainer.examples import Examples, Record, kind_of
from hadpo.trainer.objective import MicroBatch, Objective
from hadpo.trainer.update import Training, Window
from hadpo.vlm.backbone import Backbone
from hadpo.vlm.precision import tf32

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Numbers of one update, or means since the last one that was reported; names as in TRL.

    `skipped_updates` counts the updates since then that were not made, because gradients overflowed
    in float16; their `grad_norm` is None.
    """

    objective: str
    step: int  # from 0; the metrics are of before the update, so step 0 shows the untrained policy
    epoch: float  # passes over the pairs (copies included) after the update
    metrics: dict[str, float | None] = field(default_factory=dict)  # None: not finite


def steps(
    backbone: Backbone,
    pairs: Sequence[Record],
    settings: TrainConfig,
    *,
    folder: Path | None = None,
    objective: Objective = "dpo",
    held_out: Sequence[Record] = (),
    captions: Sequence[Record] = (),
    cache: Path | None = None,
) -> Iterator[StepMetrics]:
    """Train an adapter on `backbone`, update by update; what is yielded has been done.

    The checkpoint of an update is written when the next step is asked for: whoever logs what is
    yielded has logged all that a checkpoint holds, so a kill between the two loses no line.

    Args:
        backbone: gets an adapter if it has none.
        pairs: what to train on.
        settings: every field is honoured.
        folder: for checkpoints; a training that finds one there goes on from it.
        objective: "dpo", or "sft": the cross-entropy of instructions' answers, or, on the same
            batches of pairs, of the chosen answers.
        held_out: pairs to score every `eval_every` updates, as `eval_...` metrics.
        captions: what the auxiliary term learns from, for `gamma_on: instructions`.
        cache: folder for the reference's log-probabilities (`reference: cache`) and for image
            features (`vision_cache_gb` above 0).

    Raises:
        BadInput: settings that contradict each other, pairs that do not fit, or a checkpoint of
            another training.
        FloatingPointError: the loss is not a number; the state before that update is saved.
        BadEnvironment: memory ran out; the state before that update is saved.
        Stopped: SIGTERM came; the state after the update of that moment is saved.
    """
    order.check(settings)
    backbone.attention = settings.attention
    with tf32(settings.allow_tf32), reference.cache_features(backbone, cache, settings):
        references = None
        if settings.reference == "cache" and objective == "dpo":  # before weights are sharded
            scored = [pair for pair in (*pairs, *held_out) if isinstance(pair, Pair)]
            references = reference.prepare(backbone, scored, settings, cache)
        training = Training(backbone, pairs, settings, folder, objective, references, captions)
        records = training.examples.records
        plan = order.batches_of_records(records, settings)
        captions_of = order.captions(len(training.captions), plan, settings)
        done = training.resume()
        if training.stopping.is_over:
            plan = plan[:done]
        epoch_pairs = len(order.copies([kind_of(record) for record in records], settings))
        pairs_seen = sum(map(len, plan[:done]))
        eval_examples = Examples(backbone, held_out, settings)
        eval_every = settings.eval_every or settings.checkpoint_every
        window = Window()

        def make(step: int) -> list[MicroBatch]:
            return training.prepare(plan[step], captions_of[step])

        with noticed() as is_stop_requested:
            for step, micros in enumerate(prefetch(make, range(done, len(plan))), start=done):
                rate = order.learning_rate(step, len(plan), settings)
                training.update(step, micros, rate, window)
                pairs_seen += len(plan[step])
                is_stopped = training.any_of(is_stop_requested())
                is_last = step + 1 == len(plan)
                is_checkpoint = is_last or is_stopped or (step + 1) % settings.checkpoint_every == 0
                is_evaluated = is_last or (step + 1) % eval_every == 0
                is_over = False
                # Step 0 is logged: the untrained policy, before its first update.
                if is_checkpoint or is_evaluated or step % settings.log_every == 0:
                    metrics = window.read(training.accelerator)
                    if is_evaluated:
                        means = training.evaluate(eval_examples)
                        metrics |= {f"eval_{name}": value for name, value in means.items()}
                    window = Window()
                    finite = {name: v if math.isfinite(v) else None for name, v in metrics.items()}
                    is_over = is_evaluated and training.should_stop(finite)
                    epoch = pairs_seen / epoch_pairs
                    yield StepMetrics(objective=objective, step=step, epoch=epoch, metrics=finite)
                if is_checkpoint or is_over:
                    path = training.save(step + 1)
                    if is_stopped and not is_last:
                        raise Stopped(
                            f"stopped by SIGTERM after update {step}; the state is saved in "
                            f"{path or 'no file'}; the same command goes on from there"
                        )
                if is_over:
                    break
        training.keep_best()


def prefetch(make: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map`, with the next result under way in a thread while this one is used."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        current: Future[Result] | None = None
        for item in items:
            upcoming = pool.submit(make, item)
            if current is not None:
                yield current.result()
            current = upcoming
        if current is not None:
            yield current.result()
