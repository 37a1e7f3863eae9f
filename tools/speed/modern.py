"""`python -m tools.speed modern FOLDER`: a step on any class of transformers, beside TRL's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from PIL import Image
from torch import Tensor

from hadpo import adapter, backbones, batch
from hadpo.batch import Example
from hadpo.config import TrainConfig
from hadpo.records import BadInput
from hadpo.trainer import objective
from hadpo.vlm import hub
from tools.speed import machine, measure, peers, results, steps

_ANSWERS = {"desc": (110, 120), "pope": (9, 9)}  # tokens of the chosen and of the rejected one
WAYS = (steps.OURS, steps.CACHED, steps.TRL, steps.TRL_COMPACTION)
_RANK, _TARGETS = 16, "q_proj,v_proj"
_CLOSE = 1e-4  # of a loss, between us and TRL in float32


def command(
    folder: Annotated[Path, typer.Argument(help="a model of transformers, weights and processor")],
    rounds: Annotated[int, typer.Option(help="interleaved rounds", min=1)] = 5,
    json_file: results.JsonFile = None,
) -> None:
    """Equality first, then CPU seconds in float32 on one thread: ours, ours cached, TRL's two ways.

    Example: python -m tools.speed modern hub/Qwen2.5-VL-3B-Instruct
    """
    if not machine.version("trl"):
        raise BadInput("modern: trl is not installed; pip install -e '.[bench]'")
    torch.set_num_threads(1)
    found = {kind: run(folder, kind, rounds=rounds) for kind in _ANSWERS}
    for kind, facts in found.items():
        typer.echo(f"{kind}: {facts['prompt_tokens']} tokens, {facts['image_tokens']} of the image")
        for name, ratio in facts["ratios"].items():
            range_ = f"{ratio['least']:.2f} to {ratio['greatest']:.2f}"
            typer.echo(f"  {name}: {ratio['median']:.2f} ({range_})")
    results.save_json({"machine": machine.describe(torch.device("cpu")), **found}, json_file)


def run(folder: Path, kind: str, *, rounds: int) -> dict[str, Any]:
    """Seconds of each way in each round, and how many times faster ours are.

    Raises:
        BadInput: TRL's loss is another; then no time means anything.
    """
    two = Two(folder, _ANSWERS[kind])
    losses = {name: two.step(name) for name in WAYS}
    if max(losses.values()) - min(losses.values()) > _CLOSE:
        raise BadInput(f"modern: losses differ: {losses}")
    seconds = measure.seconds({name: partial(two.step, name) for name in losses}, rounds=rounds)
    prompt = two.examples[0].prefix
    ours = (steps.OURS, steps.CACHED)
    return {
        "prompt_tokens": len(prompt),
        "image_tokens": sum(i < 0 for i in prompt),
        "losses": losses,
        "seconds": seconds,
        "ratios": {
            f"{slow} / {fast}": measure.ratio(seconds[slow], seconds[fast])
            for slow in (steps.TRL, steps.TRL_COMPACTION)
            for fast in ours
        },
    }


class Two:
    """One pair about one picture of noise, 640 x 480, on our side and on TRL's."""

    def __init__(self, folder: Path, lengths: Sequence[int]) -> None:
        own = {"language_model": folder}
        self.backbone: Any = backbones.load("hf/auto", own, dtype="float32", device="cpu")
        adapter.attach(self.backbone, rank=_RANK, alpha=2.0 * _RANK, targets=_TARGETS)
        drawn = torch.Generator().manual_seed(0)
        for key, value in adapter.state(self.backbone).items():
            if ".lora_B." in key:
                value.normal_(std=0.02, generator=drawn)
        picture = Image.effect_noise((640, 480), 64).convert("RGB")
        question = "Describe the image."
        ids = self.backbone.prefix(question, picture, prompt="train")
        words = random.Random(0)
        vocab = self.backbone.lm_head_weight.shape[0]
        answers = [tuple(words.randrange(vocab // 2, vocab) for _ in range(n)) for n in lengths]
        self.examples = [
            Example(
                pair_id="0",
                kind="description",
                image="noise",
                instruction=question,
                prefix=tuple(ids),
                chosen=answers[0],
                rejected=answers[1],
                cut=0,
            )
        ]
        self.pixels = [self.backbone.preprocess(picture)]
        self.packed = batch.pack(self.examples)
        self.policy = objective.Policy(self.backbone)
        with torch.no_grad(), adapter.disabled(self.backbone):
            inputs = batch.embed(self.backbone, self.packed, self.pixels)
            self.kept = batch.answer_logps(self.backbone, self.packed, inputs)
        self.rows = self._rows(question)
        self.trainer = _trainer(folder, adapter.state(self.backbone))

    def _rows(self, question: str) -> dict[str, Tensor]:
        """TRL's batch: chosen, then rejected, padded on the right; the picture in each row."""
        prompt = self.backbone.whole_row(question, self.pixels[0])
        rows = peers.TwoRows(self.examples, torch.device("cpu"))
        made = {key: torch.cat([value] * 2) for key, value in prompt.items()}
        length = rows.ids.shape[1]
        for key in hub.TEXT & made.keys():
            made[key] = torch.nn.functional.pad(made[key], (0, length - made[key].shape[1]))
        image_id = self.backbone.chat.image_id
        made["input_ids"] = torch.where(rows.ids == peers.IMAGE, image_id, rows.ids)
        made["attention_mask"] = rows.real.long()
        made["completion_mask"] = (rows.labels >= 0).long()
        return made

    def step(self, name: str) -> float:
        """Loss and gradients of one update."""
        if name in (steps.TRL, steps.TRL_COMPACTION):
            self.trainer.model.train()
            self.trainer.model.zero_grad()
            with peers.compaction(is_on=name == steps.TRL_COMPACTION):
                loss = self.trainer.compute_loss(self.trainer.model, dict(self.rows))
        else:
            for value in self.backbone.parameters():
                value.grad = None
            micro = objective.MicroBatch(
                packed=self.packed,
                pixels=self.pixels,
                objective="dpo",
                reference=self.kept if name == steps.CACHED else None,
                example_weights=torch.ones(1),
            )
            settings = TrainConfig(beta=peers.BETA)
            loss = objective.score(self.policy, self.backbone, micro, settings, is_training=True)
            loss = loss[0].mean()
        loss.backward()
        return float(loss.detach())


def _trainer(folder: Path, weights: dict[str, Tensor]) -> Any:
    """`trl.DPOTrainer` on the class itself, with the same adapter."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    names = _TARGETS.replace(",", "|")
    trainer = peers.dpo_trainer(
        model,
        tokenizer,
        torch.device("cpu"),
        rank=_RANK,
        targets=rf".*(language_model|text_model)\.layers\..*\.({names})",
        max_length=None,
    )
    named = {
        key.replace(".default.", "."): value for key, value in trainer.model.named_parameters()
    }
    for key, value in weights.items():
        named[key].data = value.clone()
    return trainer
