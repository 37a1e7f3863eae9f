"""`python -m tools.speed sft`: question-answer pairs of an image in one row, or in a row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from torch import Tensor

from hadpo import batch
from hadpo.batch import Example, Packed
from hadpo.config import TrainConfig
from hadpo.records import BadInput, write_text
from hadpo.trainer import objective
from hadpo.vlm.backbone import Backbone
from tools.speed import cost, equality, machine, measure, models, results
from tools.speed.cost import PACKED, ROWS, ROWS_OF_AN_IMAGE
from tools.speed.models import Geometry

PAIRS = 15  # LRV: about 15 of each image
NAMES = {
    ROWS: "a row each, each with its own pass of the encoder",
    ROWS_OF_AN_IMAGE: "a row each, one pass of the encoder for all of them",
    PACKED: "all pairs of the image in one row",
}
WANTED = 3.0  # times faster


def command(
    json_file: results.JsonFile = None,
    pairs: Annotated[int, typer.Option(help="question-answer pairs of the image", min=2)] = PAIRS,
    rounds: Annotated[int, typer.Option(help="interleaved rounds", min=1)] = 5,
    folder: results.Folder = None,
    publish: results.Publish = False,
) -> None:
    """Equality first, then the time of a finetuning step; a table and a JSON file.

    Example: python -m tools.speed sft --json speed.json
    """
    out = results.folder_for(folder, publish=publish)
    found = run(models.FINETUNED, pairs=pairs, rounds=rounds)
    typer.echo(table(found))
    for path in (out / "sft-cpu-toy.json", json_file):
        results.save_json(found, path)
    write_text(out / "sft-cpu-toy.md", table(found))


def run(geometries: Sequence[Geometry], *, pairs: int = PAIRS, rounds: int = 5) -> dict[str, Any]:
    """Everything about these geometries, on one thread of the CPU, in float32.

    Raises:
        BadInput: a way computes something else; then no time means anything.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        head = {"machine": machine.describe(), "pairs": pairs, "rounds": rounds, "wanted": WANTED}
        return head | {
            "geometries": {
                sizes.name: _measured(sizes, real, pairs, rounds)
                for sizes, real in zip(geometries, models.FINETUNED_7B, strict=True)
            }
        }
    finally:
        torch.set_num_threads(threads)


class Steps:
    """The same pairs of one image in every way, on one model."""

    def __init__(
        self, sizes: Geometry, pairs: int, *, dtype: torch.dtype, is_ragged: bool = False
    ) -> None:
        self.backbone = models.build(sizes, dtype=dtype)
        self.policy = objective.Policy(self.backbone)
        self.settings = TrainConfig()
        self.parameters = models.trained(self.backbone)
        self.image = image = models.draw_pixels(sizes, 1, dtype=dtype)
        self.examples = models.pairs(sizes, "instruction", pairs, is_ragged=is_ragged)
        # An image of another name in each pair: rows encode it anew, as if drawn from all images.
        apart = models.pairs(sizes, "instruction", pairs, images=pairs, is_ragged=is_ragged)
        sides = objective.SIDES["sft"]
        self.ways: dict[str, tuple[Packed, Tensor]] = {
            ROWS: (batch.pack(apart, sides=sides), image.expand(pairs, -1, -1, -1)),
            ROWS_OF_AN_IMAGE: (batch.pack(self.examples, sides=sides), image),
            PACKED: (batch.pack_rows([self.examples], sides=sides), image),
        }

    def loss(self, name: str) -> Float[Tensor, ""]:
        """Mean over the answers, by the trainer's own code."""
        packed, pixels = self.ways[name]
        micro = objective.MicroBatch(
            packed=packed,
            pixels=pixels,
            objective="sft",
            reference=None,
            example_weights=torch.ones(packed.lengths.shape[1]),
        )
        losses, _ = objective.score(
            self.policy, self.backbone, micro, self.settings, is_training=True
        )
        return losses.mean()

    def plain_loss(self) -> Float[Tensor, ""]:
        """The same by the book: a row each, one after the other, all logits."""
        return torch.stack([_plain(self.backbone, e, self.image) for e in self.examples]).mean()

    def step(self, loss: Callable[[], Tensor]) -> float:
        """Loss and gradients; the gradients of the step before are forgotten first."""
        for parameter in self.parameters.values():
            parameter.grad = None
        value = loss()
        value.backward()
        return float(value.detach())

    def gradients(self) -> dict[str, Tensor]:
        """Of the last step, by the weights' names."""
        grads = {name: p.grad for name, p in self.parameters.items()}
        return {name: grad.clone() for name, grad in grads.items() if grad is not None}


def equal(sizes: Geometry, pairs: int) -> dict[str, dict[str, float]]:
    """Each way against the plain one, in float64, answers of unequal lengths.

    Returns:
        way -> absolute difference of the loss, and the largest difference of a gradient relative
        to the largest gradient of its weight.

    Raises:
        BadInput: a way is not equal.
    """
    with equality.float64_norm():
        ways = Steps(sizes, pairs, dtype=torch.float64, is_ragged=True)
        expected_loss = ways.step(ways.plain_loss)
        expected = ways.gradients()
        found = {}
        for name in ways.ways:
            loss = ways.step(lambda name=name: ways.loss(name))
            gap = equality.gap(ways.gradients(), expected)
            found[name] = {"loss": abs(loss - expected_loss), "gradient": gap}
    for name, gaps in found.items():
        if gaps["loss"] > equality.LOSS or gaps["gradient"] > equality.GRADIENT:
            raise BadInput(f"{sizes.name}, {name}: not equal to a plain row each: {gaps}")
    return found


def table(found: dict[str, Any]) -> str:
    """The page of Markdown."""
    made = found["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items() if v != "absent")
    lines = [
        f"# Finetuning on instructions: {found['pairs']} question-answer pairs of one image",
        "",
        f"{made['measured']}; {made['processor']}, 1 thread, load {made['load']}; "
        f"{made['system']}; {versions}.",
        "",
        f"Random weights, float32; CPU seconds of the process; median of {found['rounds']} "
        "interleaved rounds [least, greatest]. A step is forward and backward of all pairs. Of "
        "MiniGPT-4 the projection is trained, of mPLUG-Owl the LoRA, as LRV does. Answers are "
        "equally long, so that rows need no padding, which is the best case for a row each.",
        "",
        "| model | image + prompt shared, own of each pair | faster than | times | | "
        f"products, toy | products, 7B | {found['wanted']:g}x |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, values in found["geometries"].items():
        for slow in (ROWS, ROWS_OF_AN_IMAGE):
            times = values["times_faster"][slow]
            is_met = "reached" if times["median"] >= found["wanted"] else "missed"
            lines.append(
                f"| {name} | {values['shared']}, {values['own']} | {NAMES[slow]} | "
                f"{times['median']:.2f} | [{times['least']:.2f}, {times['greatest']:.2f}] | "
                f"{values['products'][slow]:.2f} | {values['products_7b'][slow]:.2f} | {is_met} |"
            )
    lines += [
        "",
        "Products: how many times fewer, counted; the share of one pass of the encoder in reading "
        "a row forward is kept as in the 7B model.",
        "",
        "| model | way | seconds a pair | loss, float64 | gradients, relative |",
        "|---|---|---|---|---|",
    ]
    for name, values in found["geometries"].items():
        for way, what in NAMES.items():
            gaps = values["equal"][way]
            lines.append(
                f"| {name} | {what} | {values['seconds'][way]:.4f} | {gaps['loss']:.1e} | "
                f"{gaps['gradient']:.1e} |"
            )
    return "\n".join(lines) + "\n"


def _measured(sizes: Geometry, real: Geometry, pairs: int, rounds: int) -> dict[str, Any]:
    gaps = equal(sizes, min(pairs, 5))
    ways = Steps(sizes, pairs, dtype=torch.float32)
    seconds = measure.seconds(
        {name: lambda name=name: ways.step(lambda: ways.loss(name)) for name in ways.ways},
        rounds=rounds,
    )
    slow = (ROWS, ROWS_OF_AN_IMAGE)
    products = [cost.finetuning_flops(g, pairs) for g in (sizes, real)]
    fewer, fewer_7b = ({name: each[name] / each[PACKED] for name in slow} for each in products)
    return {
        "equal": gaps,
        "shared": sizes.shared,
        "own": sizes.rest + sizes.answers["instruction"],
        "times_faster": {name: measure.ratio(seconds[name], seconds[PACKED]) for name in slow},
        "products": fewer,
        "products_7b": fewer_7b,
        "seconds": {name: median(s) / pairs for name, s in seconds.items()},
        "rounds": seconds,
        "geometry": vars(sizes),
    }


def _plain(
    backbone: Backbone, example: Example, image: Float[Tensor, "1 3 side side"]
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of an answer's tokens."""
    start = len(example.prefix)
    ids = torch.tensor([[*example.prefix, *example.chosen]])
    length = ids.shape[1]
    embeds = backbone.embed(ids, backbone.image_tokens(image, [""]))
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    hidden = backbone.hidden_states(embeds, mask, torch.arange(length)[None])
    logps = (hidden[0] @ backbone.lm_head_weight.T).log_softmax(-1)[start - 1 : -1]
    return -logps.gather(1, torch.tensor(example.chosen)[:, None]).mean()
