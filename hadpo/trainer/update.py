"""One update: micro-batches in, gradients, a clipped optimizer step, and sums of what was seen."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from hadpo import adapter, batch
from hadpo.batch import Example
from hadpo.batch.packing import by_length, micro_batches
from hadpo.config import TrainConfig
from hadpo.records import BadInput
from hadpo.runs import BadEnvironment
from hadpo.trainer import checkpoints, sharding
from hadpo.trainer.checkpoints import Checkpoint, Stopping
from hadpo.trainer.examples import Examples, Record
from hadpo.trainer.objective import SIDES, MicroBatch, Objective, Policy, example_weight, score
from hadpo.trainer.reference import References
from hadpo.vlm.backbone import Backbone


class Window:
    """Sums since the last report, over the pairs; they stay on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.pairs = 0.0  # sum of their example weights; without weights, how many they are
        self.skipped = 0  # updates that were not made
        self.latest: dict[str, Tensor | float] = {}  # of the last update, no means

    def add(
        self, micro: MicroBatch, reported: Mapping[str, Float[Tensor, " pairs"]], *, gamma: float
    ) -> None:
        """Add the values of a micro-batch; a filler batch adds only names, for other processes.

        Of captions, the loss is the auxiliary term, and `gamma` times as much of the whole loss:
        `order.captions` draws as many captions as pairs, so means stay means.
        """
        weights = micro.example_weights * (micro.gradient_scale > 0)
        totals = {name: (values * weights.to(values)).sum() for name, values in reported.items()}
        if micro.is_auxiliary:
            totals = {"auxiliary_loss": totals["loss"], "loss": gamma * totals["loss"]}
        else:
            self.pairs += micro.weight_sum * (micro.gradient_scale > 0)
        for name, total in totals.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + total

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


_BITSANDBYTES = {"paged_adamw_32bit": "PagedAdamW32bit", "adamw_8bit": "AdamW8bit"}


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], settings: TrainConfig
) -> list[dict[str, Any]]:
    """What is trained, by how it learns: biases and norms do not decay, LoRA's B has its own rate.

    B starts at zero and grows slower than A in wide models; LoRA+ (https://arxiv.org/abs/2402.12354)
    gives it a higher rate. `rate_ratio` of a group multiplies the schedule's rate.
    """
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            is_b, decays = ".lora_B." in name, parameter.ndim > 1
            group = {
                "params": [],
                "rate_ratio": settings.lora_b_rate_ratio if is_b else 1.0,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            groups.setdefault((is_b, decays), group)["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    groups: Sequence[dict[str, Any]], settings: TrainConfig, *, device: str
) -> torch.optim.Optimizer:
    """Torch's AdamW, or that of bitsandbytes with its state paged out or in 8 bit.

    Raises:
        BadInput: bitsandbytes is not installed, or the device is no GPU.
    """
    values: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, **values, fused=device == "cuda")
    what = f"optimizer: found {settings.optimizer}"
    if device != "cuda":
        raise BadInput(
            f"{what}, which needs a CUDA device, but the model is on {device}; "
            "set optimizer to adamw"
        )
    try:
        # Imported here: only who asks for it needs the package, and its import probes the driver.
        bitsandbytes: Any = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise BadInput(
            f"{what}, which needs bitsandbytes; install it with pip install 'hadpo[qlora]', "
            "or set optimizer to adamw"
        ) from error
    return getattr(bitsandbytes.optim, _BITSANDBYTES[settings.optimizer])(groups, **values)


class Training:
    """What lives as long as one call of `steps`: model, optimizer, and where they are saved."""

    def __init__(
        self,
        backbone: Backbone,
        pairs: Sequence[Record],
        settings: TrainConfig,
        folder: Path | None,
        objective: Objective,
        references: References | None = None,
        captions: Sequence[Record] = (),
    ) -> None:
        self.backbone, self.settings, self.folder = backbone, settings, folder
        self.objective: Objective = objective
        self.fingerprint: dict[str, str] = {}  # of its checkpoints; it reads all pictures
        if folder is not None:
            self.fingerprint = checkpoints.fingerprint(
                backbone.name, objective, settings, [*pairs, *captions], backbone.files.values()
            )
        backbone.check_rows(settings.attention, settings.pairs_per_row)
        sharding.check(backbone, settings, objective)
        self.examples = Examples(backbone, pairs, settings)
        self.captions = Examples(backbone, captions, settings)
        adapter.trained.begin(backbone, settings)
        self.stopping = Stopping(settings.early_stop)
        backbone.recompute_activations(settings.activation_checkpointing)
        device = backbone.device.type
        self.accelerator = sharding.accelerator(backbone.device)
        self.references = references
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        sharding.shard(backbone)
        self.parameters = [p for p in backbone.parameters() if p.requires_grad]
        groups = parameter_groups(backbone.named_parameters(), settings)
        self.optimizer = build_optimizer(groups, settings, device=device)
        is_fp16 = backbone.dtype == torch.float16 and device == "cuda"
        self.scaler = torch.amp.GradScaler(device, enabled=is_fp16)
        policy = Policy(backbone)
        self.policy = policy if sharding.is_on() else self.accelerator.prepare(policy)

    def prepare(self, indices: Sequence[int], captions: Sequence[int] = ()) -> list[MicroBatch]:
        """This process's micro-batches of an update on the examples and captions of these indices.

        All their images are read here; the loop calls it in the thread that prefetches.
        """
        examples = [self.examples[i] for i in indices]
        weight_sum = sum(example_weight(e, self.objective, self.settings) for e in examples)
        # Times `world`: the processes average their gradients, which divides by it.
        micros = list(self._micro_batches(examples, gradient_scale=self.world / weight_sum))
        if captions:
            beside = [self.captions[i] for i in captions]
            scale = self.settings.gamma * self.world / len(captions)
            micros += self._micro_batches(beside, gradient_scale=scale, is_auxiliary=True)
        return micros

    def _micro_batches(
        self, examples: Sequence[Example], *, gradient_scale: float, is_auxiliary: bool = False
    ) -> Iterator[MicroBatch]:
        """This process's share of examples, each with its gradient times weight and this scale.

        An iterator, so that `evaluate` has the images of one micro-batch at a time; `prepare` reads
        all of an update. The processes exchange gradients at least once an update, and with sharded
        weights in each pass: a process that has no pair left repeats a filler batch, of scale 0.
        """
        rows = by_length(batch.grouped(examples, self.settings.pairs_per_row))
        size = self.settings.micro_batch_pairs
        shares = [list(micro_batches(rows[k :: self.world], size)) for k in range(self.world)]
        for part in shares[self.rank]:
            yield self._collate(part, gradient_scale, is_auxiliary)
        wanted = max(map(len, shares)) if sharding.is_on() else 1
        if (idle := wanted - len(shares[self.rank])) > 0:
            yield from [self._collate(rows[:1], 0.0, is_auxiliary)] * idle

    def _collate(
        self, rows: Sequence[list[Example]], gradient_scale: float, is_auxiliary: bool
    ) -> MicroBatch:
        objective = "sft" if is_auxiliary else self.objective
        packed = batch.pack_rows(rows, sides=SIDES[objective], used_on=self.backbone.device.type)
        examples = [example for row in rows for example in row]
        pair_ids = tuple(example.pair_id for example in examples)
        each = [example_weight(e, self.objective, self.settings) for e in examples]
        weights = torch.tensor(each, dtype=torch.float64)
        references = self.references if objective == "dpo" else None
        return MicroBatch(
            packed=packed,
            pixels=batch.read_pixels(self.backbone, packed.images),
            objective=objective,
            reference=references.of(pair_ids) if references else None,
            example_weights=weights,
            weight_sum=float(weights.sum()),
            gradient_scale=gradient_scale,
            pair_ids=pair_ids,
            is_auxiliary=is_auxiliary,
        )

    def update(self, step: int, micros: Sequence[MicroBatch], rate: float, window: Window) -> None:
        """One optimizer update; adds what it saw to the window.

        Raises:
            FloatingPointError: a loss or the gradient is not a number; the state before is saved.
            BadEnvironment: out of memory; the state before is saved.
        """
        self.optimizer.zero_grad(set_to_none=True)
        is_finite: list[Tensor] = []
        too_large = None
        with self._seed_dropout(step):
            for number, micro in enumerate(micros, start=1):
                try:
                    micro = micro.to(self.backbone.device)
                    is_last = number == len(micros)
                    with sharding.syncing(self.backbone, self.policy, self.accelerator, is_last):
                        losses, reported = score(
                            self.policy, self.backbone, micro, self.settings, is_training=True
                        )
                        weighted = losses * micro.example_weights.to(losses)
                        micro_loss = weighted.sum() * micro.gradient_scale
                        self.accelerator.backward(self.scaler.scale(micro_loss))
                    is_finite.append(losses.detach().isfinite().all())
                    window.add(micro, reported, gamma=self.settings.gamma)
                except (RuntimeError, MemoryError) as error:
                    if not checkpoints.is_out_of_memory(error):
                        raise
                    # They hold memory, and so does the error.
                    losses = reported = weighted = micro_loss = None
                    too_large = micro
                if too_large:  # the error is gone here
                    self._end_without_room(step, too_large)
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.max_grad_norm or float("inf")
        norm = sharding.whole(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        # With a scaler, gradients that overflow are expected: it skips the update and backs off.
        is_learnable = norm.isfinite() | self.scaler.is_enabled()
        if not bool(torch.stack(is_finite).all() & is_learnable):
            self._end_diverged(step, micros, is_finite)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_ratio"]
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        window.skipped += self.scaler.get_scale() < scale  # it backs off after an overflow only
        positions = sum(micro.packed.ids.numel() for micro in micros)
        tokens = sum(micro.packed.num_tokens for micro in micros)
        padding = 1 - tokens / positions
        window.latest = {"grad_norm": norm, "learning_rate": rate, "padding": padding}

    def any_of(self, flag: bool) -> bool:
        """Whether a flag is set in any of the processes: all of them do the same then."""
        if self.world == 1:
            return flag
        device = self.backbone.device
        total: Any = self.accelerator.reduce(torch.tensor(float(flag), device=device), "sum")
        return bool(total)

    @torch.no_grad()
    def evaluate(self, held_out: Examples) -> dict[str, float]:
        """Means over held-out pairs; empty without any."""
        if not held_out:
            return {}
        window = Window()
        for one in self._micro_batches([*held_out], gradient_scale=1.0):
            micro = one.to(self.backbone.device)
            _, reported = score(self.policy, self.backbone, micro, self.settings, is_training=False)
            window.add(micro, reported, gamma=self.settings.gamma)
        return window.read(self.accelerator)

    def save(self, step: int, *, alone: bool = False) -> Path | None:
        """Write a checkpoint of `step` updates; the first process does, or one left `alone`."""
        if self.folder is None or (alone and sharding.is_on()):  # parts need all processes
            return None
        weights = sharding.whole(adapter.trained.state(self.backbone))
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
        weights = sharding.shard_like(checkpoint.adapter, adapter.trained.state(self.backbone))
        adapter.trained.restore(self.backbone, weights, where=str(self.folder))
        self.optimizer.load_state_dict(checkpoint.optimizer)
        sharding.shard_state(self.optimizer)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.stopping.restore(checkpoint.stopping)
        return checkpoint.step

    def should_stop(self, metrics: Mapping[str, float | None]) -> bool:
        """Whether the held-out loss, just looked at, has not become better for long enough."""
        weights = sharding.whole(adapter.trained.state(self.backbone))
        return self.stopping.look(metrics.get("eval_loss"), weights)

    def keep_best(self) -> None:
        """Of a training that may stop early, what had the lowest held-out loss stays."""
        if self.stopping.weights:
            best = sharding.shard_like(self.stopping.weights, adapter.trained.state(self.backbone))
            adapter.trained.restore(self.backbone, best, where="the best checkpoint")

    @contextlib.contextmanager
    def _seed_dropout(self, step: int) -> Iterator[None]:
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

    def _end_without_room(self, step: int, micro: MicroBatch) -> NoReturn:
        self.optimizer.zero_grad(set_to_none=True)
        size = self.settings.micro_batch_pairs
        less = f"-p micro_batch_pairs={size // 2} (now {size}) or " * (size > 1)
        raise BadEnvironment(
            f"update {step}: out of memory on the pairs {', '.join(micro.pair_ids)}; "
            f"{self._save_before(step, alone=True)}; the same command with {less}"
            "-p activation_checkpointing=true goes on from there"
        )

    def _end_diverged(
        self, step: int, micros: Sequence[MicroBatch], is_finite: Sequence[Tensor]
    ) -> NoReturn:
        place = self._save_before(step)
        bad = [m.pair_ids for m, good in zip(micros, is_finite, strict=True) if not bool(good)]
        what = "the loss" if bad else "the gradient"
        pairs = bad[0] if bad else [pair_id for micro in micros for pair_id in micro.pair_ids]
        raise FloatingPointError(
            f"update {step}: {what} is not a number on the pairs {', '.join(pairs)}; {place}; "
            "try a lower learning_rate, or dtype: float32"
        )

    def _save_before(self, step: int, *, alone: bool = False) -> str:
        """Save the state before an update that failed; where it is, as a part of a sentence."""
        path = self.save(step, alone=alone)
        return f"the state before it is saved in {path}" if path else "nothing was saved"
