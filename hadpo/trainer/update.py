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
from hadpo.records import BadInput, Pair
from hadpo.trainer import checkpoints, endings, optimizer, sharding
from hadpo.trainer.checkpoints import Checkpoint
from hadpo.trainer.layout import by_length, micro_batches
from hadpo.trainer.objective import SIDES, Objective, Policy, score
from hadpo.trainer.reference import References
from hadpo.trainer.window import Window


@dataclass(frozen=True, kw_only=True)
class Micro:
    """The pairs of one backward pass, on the CPU."""

    packed: Packed
    pixels: Float[Tensor, "images 3 side side"]
    reference: Float[Tensor, "answers pairs"] | None  # log-probabilities from the cache
    pair_ids: tuple[str, ...]
    weight: float  # of each pair's loss; 0 where another process has no pair left to wait for


class Training:
    """What lives as long as one call of `steps`: adapter, optimizer, and where they are saved."""

    def __init__(
        self,
        backbone: Backbone,
        pairs: Sequence[Pair],
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
        sharding.check(backbone, settings, objective)
        self.examples = [self.tokenize(pair) for pair in pairs]
        if not adapter.is_attached(backbone):
            adapter.attach(
                backbone,
                rank=settings.lora_rank,
                alpha=settings.lora_alpha,
                targets=settings.lora_targets,
                dropout=settings.lora_dropout,
                seed=settings.train_seed,
            )
        adapter.check_scope(backbone)
        backbone.recompute_activations(settings.activation_checkpointing)
        device = backbone.device.type
        self.accelerator = Accelerator(
            cpu=device == "cpu", device_placement=False, mixed_precision="no"
        )
        sharding.share_out(backbone)
        self.parameters = [p for p in backbone.parameters() if p.requires_grad]
        groups = optimizer.groups(backbone.named_parameters(), settings)
        self.optimizer = optimizer.build(groups, settings, device=device)
        is_fp16 = backbone.dtype == torch.float16 and device == "cuda"
        self.scaler = torch.amp.GradScaler(device, enabled=is_fp16)
        policy = Policy(backbone)
        self.policy = policy if sharding.is_on() else self.accelerator.prepare(policy)

    def tokenize(self, pair: Pair) -> Example:
        """The pair's ids under the prompt of training."""
        return batch.tokenize(self.backbone, pair, max_length=self.settings.max_length)

    def prepare(self, rows: Sequence[int]) -> list[Micro]:
        """This process's micro-batches of an update on the pairs `rows`."""
        packed_rows = self._rows([self.examples[i] for i in rows])
        world = self.accelerator.num_processes
        return self._share(packed_rows, weight=world / len(rows))  # processes average gradients

    def update(self, step: int, micros: Sequence[Micro], rate: float, window: Window) -> None:
        """One optimizer update; adds what it saw to the window.

        Raises:
            FloatingPointError: a loss or the gradient is not a number; the state before is saved.
        """
        self.optimizer.zero_grad(set_to_none=True)
        is_finite: list[Tensor] = []
        too_large = None
        with self._seeded(step):
            for micro in micros:
                try:
                    is_finite.append(self._backward(micro, window, is_last=micro is micros[-1]))
                except (RuntimeError, MemoryError) as error:
                    if not endings.is_out_of_memory(error):
                        raise
                    too_large = micro
                if too_large:  # only here the error has let go of what it held in memory
                    self._no_room(step, too_large)
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.max_grad_norm or float("inf")
        norm = sharding.whole(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        # With a scaler, gradients that overflow are expected: it skips the update and backs off.
        is_learnable = norm.isfinite() | self.scaler.is_enabled()
        if not bool(torch.stack(is_finite).all() & is_learnable):
            self._diverged(step, micros, is_finite)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_ratio"]
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

    def _backward(self, micro: Micro, window: Window, *, is_last: bool) -> Tensor:
        """Gradients of one micro-batch; whether all its losses are numbers."""
        with contextlib.nullcontext() if is_last else self._no_sync():
            losses, reported = self._score(micro, is_training=True)
            total = losses.sum() * micro.weight
            self.accelerator.backward(self.scaler.scale(total))
        window.add(reported, counts=micro.weight > 0)
        return losses.detach().isfinite().all()

    def any_of(self, flag: bool) -> bool:
        """Whether a flag is set in any of the processes: all of them do the same then."""
        if self.accelerator.num_processes == 1:
            return flag
        device = self.backbone.device
        total: Any = self.accelerator.reduce(torch.tensor(float(flag), device=device), "sum")
        return bool(total)

    @torch.no_grad()
    def evaluate(self, held_out: Sequence[Example]) -> dict[str, float]:
        """Means over held-out pairs; none for none."""
        if not held_out:
            return {}
        window = Window()
        for micro in self._share(self._rows(held_out), weight=1.0):
            _, reported = self._score(micro, is_training=False)
            window.add(reported, counts=micro.weight > 0)
        return window.read(self.accelerator)

    def save(self, step: int, *, alone: bool = False) -> Path | None:
        """Write a checkpoint of `step` updates; the first process does, or one left `alone`."""
        if self.folder is None or (alone and sharding.is_on()):  # parts need all processes
            return None
        weights = sharding.whole(adapter.state(self.backbone))
        state = self.optimizer.state_dict()
        state["state"] = sharding.whole(state["state"])
        if not self.accelerator.is_main_process and not alone:
            return None
        return checkpoints.save(
            self.folder,
            Checkpoint(
                step=step,
                fingerprint=self.fingerprint,
                adapter={key: value.cpu() for key, value in weights.items()},
                optimizer=state,
                scaler=self.scaler.state_dict(),
            ),
        )

    def resume(self) -> int:
        """Updates done by the newest checkpoint, whose state is taken over; 0 without one."""
        if self.folder is None:
            return 0
        checkpoint = checkpoints.newest(self.folder, self.fingerprint)
        if checkpoint is None:
            return 0
        weights = sharding.parts(checkpoint.adapter, adapter.state(self.backbone))
        adapter.restore(self.backbone, weights, where=str(self.folder))
        self.optimizer.load_state_dict(checkpoint.optimizer)
        sharding.cut_state(self.optimizer)
        self.scaler.load_state_dict(checkpoint.scaler)
        return checkpoint.step

    def _rows(self, examples: Sequence[Example]) -> list[list[Example]]:
        return by_length(batch.grouped(examples, self.settings.pairs_per_row))

    def _share(self, rows: Sequence[list[Example]], *, weight: float) -> list[Micro]:
        """This process's micro-batches; one of weight 0 where it must wait for others.

        Where weights are shared out, each pass needs all processes: all have as many micro-batches.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        count = self.settings.micro_batch_pairs
        passes = [len(list(micro_batches(rows[k::world], count))) for k in range(world)]
        wanted = max(passes) if sharding.is_on() else 1
        micros = self._micros(rows[rank::world], weight=weight)
        idle = self._micros(rows[:1], weight=0.0) if len(micros) < wanted else []
        return micros + idle * (wanted - len(micros))

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
        if sharding.is_on():
            return sharding.not_exchanged(self.backbone)
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

    def _no_room(self, step: int, micro: Micro) -> NoReturn:
        self.optimizer.zero_grad(set_to_none=True)
        raise endings.out_of_memory(
            step,
            micro.pair_ids,
            self._save_before(step, alone=True),
            self.settings.micro_batch_pairs,
        )

    def _save_before(self, step: int, *, alone: bool = False) -> str:
        """Save the state before an update that failed; where it lies, as a part of a sentence."""
        saved = self.save(step, alone=alone)
        return f"the state before it is saved in {saved}" if saved else "nothing was saved"

    def _diverged(
        self, step: int, micros: Sequence[Micro], is_finite: Sequence[Tensor]
    ) -> NoReturn:
        place = self._save_before(step)
        bad = [m.pair_ids for m, good in zip(micros, is_finite, strict=True) if not bool(good)]
        what = "the loss" if bad else "the gradient"
        pairs = bad[0] if bad else [pair_id for micro in micros for pair_id in micro.pair_ids]
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
