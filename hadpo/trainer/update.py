"""One update: micro-batches in, gradients, a clipped optimizer step, and sums of what was seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from hadpo import adapter, batch
from hadpo.backbones._base import Backbone
from hadpo.batch import Example, Packed
from hadpo.config import TrainConfig
from hadpo.records import BadInput
from hadpo.trainer import checkpoints, optimizer
from hadpo.trainer.checkpoints import Checkpoint
from hadpo.trainer.examples import Record, tokenized
from hadpo.trainer.layout import by_length, micro_batches
from hadpo.trainer.objective import SIDES, Objective, Policy, score, weight
from hadpo.trainer.reference import References
from hadpo.trainer.stopping import Stopping


@dataclass(frozen=True, kw_only=True)
class Micro:
    """The pairs of one backward pass, on the CPU."""

    packed: Packed
    pixels: Float[Tensor, "images 3 side side"]
    reference: Float[Tensor, "answers pairs"] | None  # log-probabilities from the cache
    pair_ids: tuple[str, ...]
    counts: Float[Tensor, " pairs"]  # how much each pair counts beside the others
    weight: float  # of what counts 1; 0 where another process has no pair left to wait for


class Window:
    """Sums since the last report; they stay on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.pairs = 0.0  # what they count
        self.skipped = 0  # updates that were not made
        self.latest: dict[str, Tensor | float] = {}

    def add(self, reported: Mapping[str, Float[Tensor, " pairs"]], micro: Micro) -> None:
        """Add the values of some pairs; only their names where they serve another process."""
        is_mine = micro.weight > 0
        for name, values in reported.items():
            total = (values * micro.counts.to(values)).sum() * float(is_mine)
            self.sums[name] = self.sums.get(name, torch.zeros(())) + total
        self.pairs += float(micro.counts.sum()) if is_mine else 0.0

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means per pair over all processes; one copy from the device."""
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name].float() for name in names])
        sums = torch.cat([sums, sums.new_tensor([float(self.pairs)])])
        totals: Any = accelerator.reduce(sums, reduction="sum")
        *values, pairs = totals.tolist()
        means = {name: value / pairs for name, value in zip(names, values, strict=True)}
        latest = {name: float(value) for name, value in self.latest.items()}
        return means | latest | ({"skipped_updates": float(self.skipped)} if latest else {})


class Training:
    """What lives as long as one call of `steps`: adapter, optimizer, and where they are saved."""

    def __init__(
        self,
        backbone: Backbone,
        pairs: Sequence[Record],
        settings: TrainConfig,
        folder: Path | None,
        objective: Objective,
        references: References | None = None,
    ) -> None:
        self.backbone, self.settings = backbone, settings
        self.objective: Objective = objective
        self.folder: Path | None = folder
        self.fingerprint = checkpoints.fingerprint(
            backbone.name, objective, settings, pairs, backbone.files.values()
        )
        self.references = references
        _check_rows(backbone, settings)
        self.examples, self.left_out = tokenized(backbone, pairs, settings)
        self.parameters = adapter.trained.begin(backbone, settings)
        self.stopping = Stopping(settings.early_stop)
        backbone.recompute_activations(settings.activation_checkpointing)
        self.optimizer = optimizer.build(self.parameters, settings, device=backbone.device.type)
        device = backbone.device.type
        is_fp16 = backbone.dtype == torch.float16 and device == "cuda"
        self.scaler = torch.amp.GradScaler(device, enabled=is_fp16)
        self.accelerator = Accelerator(
            cpu=device == "cpu", device_placement=False, mixed_precision="no"
        )
        self.policy = self.accelerator.prepare(Policy(backbone))

    def prepare(self, rows: Sequence[int]) -> list[Micro]:
        """This process's micro-batches of an update on the pairs `rows`."""
        packed_rows = self._rows([self.examples[i] for i in rows])
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        if mine := packed_rows[rank::world]:
            counted = sum(self._weight(self.examples[i]) for i in rows)
            return self._micros(mine, weight=world / counted)  # processes average gradients
        return self._micros(packed_rows[:1], weight=0.0)

    def update(self, step: int, micros: Sequence[Micro], rate: float, window: Window) -> None:
        """One optimizer update; adds what it saw to the window.

        Raises:
            FloatingPointError: a loss or the gradient is not a number; the state before is saved.
        """
        self.optimizer.zero_grad(set_to_none=True)
        is_finite = []
        with self._seeded(step):
            for micro in micros:
                is_last = micro is micros[-1]
                with contextlib.nullcontext() if is_last else self._no_sync():
                    losses, reported = self._score(micro, is_training=True)
                    total = (losses * micro.counts.to(losses)).sum() * micro.weight
                    self.accelerator.backward(self.scaler.scale(total))
                is_finite.append(losses.detach().isfinite().all())
                window.add(reported, micro)
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        # With a scaler, gradients that overflow are expected: it skips the update and backs off.
        is_learnable = norm.isfinite() | self.scaler.is_enabled()
        if not bool(torch.stack(is_finite).all() & is_learnable):
            self._diverged(step, micros, is_finite)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        window.skipped += self.scaler.get_scale() < scale  # it backs off after an overflow only
        positions = sum(micro.packed.ids.numel() for micro in micros)
        tokens = sum(micro.packed.num_tokens for micro in micros)
        window.latest = {
            "grad_norm": norm,
            "learning_rate": rate,
            "padding": 1 - tokens / positions,
        }

    @torch.no_grad()
    def evaluate(self, held_out: Sequence[Example]) -> dict[str, float]:
        """Means over held-out pairs; none for none."""
        if not held_out:
            return {}
        window = Window()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        rows = self._rows(held_out)
        mine = rows[rank::world]
        for micro in self._micros(mine or rows[:1], weight=float(bool(mine))):
            _, reported = self._score(micro, is_training=False)
            window.add(reported, micro)
        return window.read(self.accelerator)

    def save(self, step: int) -> Path | None:
        """Write a checkpoint of `step` updates; only the first process does."""
        if self.folder is None or not self.accelerator.is_main_process:
            return None
        weights = adapter.trained.state(self.backbone)
        return checkpoints.save(
            self.folder,
            Checkpoint(
                step=step,
                fingerprint=self.fingerprint,
                adapter={key: value.cpu() for key, value in weights.items()},
                optimizer=self.optimizer.state_dict(),
                scaler=self.scaler.state_dict(),
                stopping=self.stopping.state(),
            ),
        )

    def resume(self) -> int:
        """Updates done by the newest checkpoint, whose state is taken over; 0 without one."""
        if self.folder is None:
            return 0
        checkpoint = checkpoints.newest(self.folder, self.fingerprint)
        if checkpoint is None:
            return 0
        adapter.trained.restore(self.backbone, checkpoint.adapter, where=str(self.folder))
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.stopping.restore(checkpoint.stopping)
        return checkpoint.step

    def should_stop(self, metrics: Mapping[str, float | None]) -> bool:
        """At a checkpoint: whether the held-out loss has not become better for long enough."""
        loss = metrics.get("eval_loss")
        return self.stopping.look(loss, adapter.trained.state(self.backbone))

    def keep_best(self) -> None:
        """Of a training that may stop early, what had the lowest held-out loss stays."""
        if self.stopping.weights:
            best = self.stopping.weights
            adapter.trained.restore(self.backbone, best, where="the best checkpoint")

    def _weight(self, example: Example) -> float:
        return weight(example, self.objective, self.settings)

    def _rows(self, examples: Sequence[Example]) -> list[list[Example]]:
        return by_length(batch.grouped(examples, self.settings.pairs_per_row))

    def _micros(self, rows: Sequence[list[Example]], *, weight: float) -> list[Micro]:
        micros = []
        for part in micro_batches(rows, self.settings.micro_batch_pairs):
            packed = batch.pack_rows(part, sides=SIDES[self.objective])
            ids = tuple(example.pair_id for row in part for example in row)
            is_kept = self.references is not None and self.objective == "dpo"
            micros.append(
                Micro(
                    packed=packed,
                    pixels=batch.read_pixels(self.backbone, packed.images),
                    reference=self.references.of(ids) if is_kept and self.references else None,
                    pair_ids=ids,
                    counts=torch.tensor(
                        [self._weight(e) for row in part for e in row], dtype=torch.float64
                    ),
                    weight=weight,
                )
            )
        return micros

    def _score(self, micro: Micro, *, is_training: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
        kept = micro.reference
        return score(
            self.policy,
            self.backbone,
            micro.packed.to(self.backbone.device),
            micro.pixels,
            self.settings,
            kept=None if kept is None else kept.to(self.backbone.device),
            objective=self.objective,
            is_training=is_training,
        )

    def _no_sync(self) -> contextlib.AbstractContextManager[Any]:
        return self.accelerator.no_sync(self.policy)

    @contextlib.contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """Draw the dropout from the seed and the update's number: resuming needs no more."""
        if not self.settings.lora_dropout:
            yield
            return
        device = self.backbone.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            rank = self.accelerator.process_index
            torch.manual_seed((self.settings.train_seed * 1_000_003 + step) * 1_003 + rank)
            yield

    def _diverged(
        self, step: int, micros: Sequence[Micro], is_finite: Sequence[Tensor]
    ) -> NoReturn:
        saved = self.save(step)
        bad = [m.pair_ids for m, good in zip(micros, is_finite, strict=True) if not bool(good)]
        what = "the loss" if bad else "the gradient"
        pairs = bad[0] if bad else [pair_id for micro in micros for pair_id in micro.pair_ids]
        place = f"the state before it is saved in {saved}" if saved else "nothing was saved"
        raise FloatingPointError(
            f"update {step}: {what} is not a number on the pairs {', '.join(pairs)}; {place}; "
            "try a lower learning_rate, or dtype: float32"
        )


def _check_rows(backbone: Backbone, settings: TrainConfig) -> None:
    if settings.pairs_per_row > 1 and backbone.image_tokens_depend_on_instruction:
        raise BadInput(
            f"pairs_per_row: found {settings.pairs_per_row}, but the image tokens of "
            f"{backbone.name} depend on the instruction, so pairs of one image have nothing to "
            "share; set pairs_per_row to 1"
        )
