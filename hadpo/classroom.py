"""What the walkthrough shows and asks: small computations on one mini run, and checks of answers.

Nothing else imports it. Each part belongs to chapters of `notebooks/00_walkthrough.ipynb`.
"""

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch

from hadpo import adapter, batch, figures, judges
from hadpo.batch import Example, Packed
from hadpo.figures import FEW, Card, Figure
from hadpo.judges import oracle
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.plugins import choices
from hadpo.records import (
    Answer,
    BadInput,
    Case,
    Evidence,
    Metric,
    Pair,
    Verdict,
    read_json,
    read_jsonl,
)
from hadpo.runs import Run
from hadpo.text import sentences
from hadpo.vlm.backbone import Backbone

# A student's answer beside the right one; a wrong one stops the notebook with a hint.


class WrongAnswer(AssertionError):
    """The answer is not right; the message is a hint, never the answer."""


@dataclass(frozen=True)
class Checked:
    """What is said of an answer."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text


def check(answer: object, right: float | str | bool, *, hint: str, within: float = 0.0) -> Checked:
    """Compare an answer; None is none yet, which is said and lets the notebook go on.

    Args:
        answer: the student's variable.
        right: what it should be; a text is compared without case and outer blanks.
        hint: what to look at again.
        within: how far a number may be off.

    Raises:
        WrongAnswer: another answer, or one of another kind.
    """
    if answer is None:
        return Checked("*No answer yet: put yours in the cell above, then run both cells.*")
    if isinstance(right, str):
        is_right = isinstance(answer, str) and answer.strip().lower() == right.strip().lower()
    elif isinstance(right, bool):
        is_right = answer is right
    else:
        is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
        is_right = is_number and abs(answer - right) <= within  # pyright: ignore[reportOperatorIssue]
    if not is_right:
        raise WrongAnswer(f"{answer!r} is not it. Hint: {hint}")
    return Checked(f"✓ **Right:** `{answer!r}`.")


# What a mini run's stage prepare has written.


def _oracle_of(prepare: Run) -> oracle.Oracle:
    """The judge that knows the words of the run's world."""
    path = prepare.path("vocabulary.json")
    words = read_json(path, dict, expected="run stage prepare again")
    return oracle.make(vocabulary=from_json(words, where=path))


def _known_images(prepare: Run) -> dict[str, Evidence]:
    """What is known of each image."""
    every = read_jsonl(prepare.path("evidence.jsonl"), Evidence)
    return {evidence.image_id: evidence for evidence in every}


def _own_descriptions(prepare: Run) -> Iterator[Answer]:
    """What the model said of the training images before any training."""
    every = read_jsonl(prepare.path("own_answers.jsonl"), Answer)
    return (answer for answer in every if answer.benchmark == "description")


# Texts up close: a judged description, differing words, the packed row as it is read.


@dataclass(frozen=True, eq=False)
class Description:
    """A description by the untrained model, with the oracle's verdicts."""

    card: Card
    verdicts: list[Verdict]

    @property
    def wrong(self) -> int:
        """How many of the sentences are wrong."""
        return sum(verdict.label == "hallucination" for verdict in self.verdicts)

    def _repr_html_(self) -> str:
        return self.card._repr_html_()


def worst_description(prepare: Run) -> Description:
    """Of the first twenty descriptions, the one with most wrong sentences, judged."""
    known, judge = _known_images(prepare), _oracle_of(prepare)
    described = []
    for answer in itertools.islice(_own_descriptions(prepare), 20):
        claims, evidence = tuple(sentences(answer.text)), known[answer.image_id]
        case = Case(case_id=answer.question_id, model="base", claims=claims, evidence=evidence)
        verdicts = judges.rule_all(judge, [case])
        objects = ", ".join(sorted(judge.world(evidence).names))
        title = f"What the model says of image {evidence.image_id}; on it: {objects}"
        card = figures.hallucination_card(evidence.image, verdicts, models=("base",), title=title)
        described.append(Description(card, verdicts))
    return max(described, key=lambda description: description.wrong)


def differing_words(pair: Pair) -> int:
    """How many words of the rejected text are marked: not in the chosen one at their place."""
    return sum(is_marked for _, is_marked in figures.differing_words(pair)[1])


def token_strip(model: Backbone, packed: Packed, *, row: int = 0) -> Figure:
    """One packed row as coloured pieces, each with the text that its ids mean."""
    chosen, rejected = (int(n) for n in packed.lengths[:, row])
    length = int(packed.positions[row].max()) + 1
    prefix = length - max(chosen, rejected)
    ids = packed.ids[row].tolist()[: prefix + chosen + rejected]
    names = {number: mark for mark, number in model.tokenizer.special_ids.items()}
    pieces = [names.get(i) or model.tokenizer.decode([i]) if i >= 0 else "" for i in ids]
    parts = {"prefix": prefix, "chosen": chosen, "rejected": rejected}
    return figures.strip_picture(pieces, parts, [i < 0 for i in ids])


def falls_further(steps: Sequence[Mapping[str, Any]]) -> str:
    """Whose log-probability ends lower, compared with the first step: "chosen" or "rejected"."""
    own = [step["metrics"] for step in steps if step["objective"] == "dpo"]
    return min(("chosen", "rejected"), key=lambda n: own[-1][f"logps/{n}"] - own[0][f"logps/{n}"])


def gain_of(evaluated: Path, case_id: str) -> int:
    """How many fewer sentences of an answer are wrong after tuning."""
    every = read_jsonl(evaluated / "verdicts.jsonl", Verdict)
    own = (v.model for v in every if v.case_id == case_id and v.label == "hallucination")
    wrong = Counter(own)
    return wrong["base"] - wrong["merged"]


# Where inventions come from: what stands together in the world, and what the model invents.


@dataclass(frozen=True, eq=False)
class Habits:
    """Shares of images by scene and object: where it is, and where it is absent but said."""

    scenes: list[str]
    objects: list[str]
    present: np.ndarray  # scenes x objects: share of the scene's images that have the object
    invented: np.ndarray  # ... share of its images without the object whose description has it
    images: np.ndarray  # ... how many images the scene has
    without: np.ndarray  # ... how many of them lack the object

    def most_invented(self, scene: str) -> str:
        """The object that the model most often invents in a scene, of the cells that are coloured.

        Of all, if no cell of the scene rests on enough images.
        """
        at = self.scenes.index(scene)
        is_known = self.without[at] >= FEW
        shares = np.where(is_known | ~is_known.any(), self.invented[at], -1)
        return self.objects[int(shares.argmax())]

    def correlation(self) -> float:
        """Between how usual an object is and how often it is invented."""
        return float(np.corrcoef(self.present.ravel(), self.invented.ravel())[0, 1])

    def figure(self) -> Figure:
        """Both matrices side by side."""
        said = "is invented: share of those without it"
        there = "is there: share of the scene's pictures"
        return figures.heat_maps(
            {there: self.present, said: self.invented},
            {there: self.images, said: self.without},
            rows=self.scenes,
            columns=self.objects,
            title="The model invents what is usual in such a scene: correlation "
            f"{self.correlation():.2f}.",
        )


def habits(prepare: Run) -> Habits:
    """Counted over the images that the model described for the pairs of a mini run."""
    known, judge = _known_images(prepare), _oracle_of(prepare)
    objects, scenes = list(judge.vocabulary.objects), list(judge.vocabulary.scenes)
    images, present, invented = (np.zeros((len(scenes), len(objects))) for _ in range(3))
    for answer in _own_descriptions(prepare):
        world = judge.world(known[answer.image_id])
        (scene,) = world.scenes
        row = scenes.index(scene)
        said = {name for s in sentences(answer.text) for name in judge.vocabulary.read(s).names}
        images[row] += 1
        present[row] += [name in world.names for name in objects]
        invented[row] += [name in said - world.names for name in objects]
    shares = present / np.maximum(images, 1), invented / np.maximum(images - present, 1)
    return Habits(scenes, objects, *shares, images, images - present)


# What a pair costs: one packed row, against the same two answers in rows of their own.


@dataclass(frozen=True)
class Cost:
    """Of some pairs, forward and backward."""

    way: str
    tokens: int  # positions that are read
    seconds: float  # the median of the repetitions
    activation_bytes: int  # kept for the backward pass

    @staticmethod
    def figure(costs: "Sequence[Cost]") -> Figure:
        """Both ways beside each other."""
        return figures.cost_bars([asdict(cost) for cost in costs])


def cost_of(model: Backbone, examples: Sequence[Example], *, repeats: int = 5) -> list[Cost]:
    """Measured here and now, with an adapter that is taken out again afterwards."""
    adapter.attach(model, rank=8, alpha=16, targets="q_proj,v_proj")
    try:
        both = [("chosen",), ("rejected",)]
        return [
            _measure("two rows a pair", model, examples, both, repeats),
            _measure("one packed row", model, examples, [("chosen", "rejected")], repeats),
        ]
    finally:
        adapter.detach(model)


def _measure(
    way: str, model: Backbone, examples: Sequence[Example], rows: Sequence[Any], repeats: int
) -> Cost:
    packs = [batch.pack(examples, sides=sides) for sides in rows]
    seconds = []
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    for _ in range(repeats):
        sizes.clear()
        started = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logps = [_logps(model, packed) for packed in packs]
            torch.stack([each.sum() for each in logps]).sum().backward()
        seconds.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    tokens = sum(int((packed.mask.diagonal(dim1=-2, dim2=-1)).sum()) for packed in packs)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(size for place, size in sizes.items() if place not in own)
    return Cost(way, tokens, statistics.median(seconds), activations)


def _logps(model: Backbone, packed: Packed) -> torch.Tensor:
    embeds = batch.embed(model, packed, batch.read_pixels(model, packed.images))
    return batch.answer_logps(model, packed, embeds)


# What the feedback knows, and which method makes most of it.

FEEDBACK = {  # what is known of a text -> where the pairs come from; what finetuning learns from
    "ranks": ("ranked", "sft"),
    "verdicts": ("ranked", "sft_true"),
    "corrections": ("mined", "sft"),
}


def feedback(knows: str, *, images: int, tested: int, steps: int) -> dict[str, dict[str, Any]]:
    """Settings of a run of `mini/llava` by stage: preference training beside one control.

    Raises:
        BadInput: `knows` is none of `FEEDBACK`.
    """
    if knows not in FEEDBACK:
        raise BadInput(f"knows: found {knows!r}; {choices(str(knows), FEEDBACK)}")
    source, control = FEEDBACK[knows]
    world = {"mini_train_images": images, "description_images": images, "mini_test_images": tested}
    return {
        "prepare": {**world, "pair_source": source, "yes_no_pairs": 0},
        "train": {
            **{"steps": steps, "batch_pairs": 8, "description_share": -1.0},
            **{"controls": control, "control_learning_rate": "", "control_steps": ""},
        },
        "evaluate": {
            **{"models": f"base,merged,{control}", "benchmark_names": "claims"},
            "cut_control": False,
        },
    }


def best_of(metrics: Sequence[Metric]) -> str:
    """The trained model with the highest F1 of object claims."""
    reached = {m.model: m.value or 0.0 for m in metrics if m.name == "f1" and m.model != "base"}
    return max(reached, key=lambda model: reached[model])


# A slider that redraws one picture; in a report, the picture stays.

BETAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Slider:
    """A picture of one value that a slider chooses.

    Attributes:
        slider: the control.
        widget: the control and the picture, for JupyterLab.
    """

    def __init__(
        self, draw: Callable[[float], Figure], values: Sequence[float], value: float, name: str
    ) -> None:
        self._draw = draw
        self.slider = widgets.SelectionSlider(
            options=[(f"{v:g}", v) for v in values],
            value=value,
            description=name,
            continuous_update=False,
        )
        self.shown = widgets.HTML()
        self.widget = widgets.VBox([self.slider, self.shown])
        self.slider.observe(lambda _: self._show(), "value")
        self._show()

    def _show(self) -> None:
        self.shown.value = self._draw(self.slider.value)._repr_html_()

    def _repr_mimebundle_(self, **wanted: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = self.widget._repr_mimebundle_(**wanted) or {}
        bundle["text/html"] = self.shown.value
        bundle["text/plain"] = f"{self.slider.description} = {self.slider.value:g}"
        return bundle


def beta_slider(chosen: np.ndarray, rejected: np.ndarray, *, beta: float = 0.1) -> Slider:
    """How far the best policy goes from the reference, and what margin it gets, by beta.

    Args:
        chosen: the reference's log-probabilities of the chosen answers, in nats.
        rejected: of the rejected ones.
        beta: where the slider begins.
    """
    start = chosen - rejected
    return Slider(lambda at: figures.beta_sweep(start, BETAS, at), BETAS, beta, "beta")
