"""The records: frozen dataclasses of plain values; `image` is a file's path, ids are strings."""

from dataclasses import dataclass, field
from typing import Literal


class BadInput(ValueError):
    """Input that a user must mend: the message says where, what was found, what was expected."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message alone, not the way through our code."""
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference pair: two responses to one instruction about one image."""

    pair_id: str
    image_id: str
    image: str
    instruction: str
    chosen: str
    rejected: str
    kind: Literal["description", "pope"]
    source: str  # where the pair came from: a file's name, or "mined"


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One example to finetune on: what is asked about one image, and what should be answered."""

    instruction_id: str
    image_id: str
    image: str
    instruction: str  # "": one of the backbone's own requests for a caption
    answer: str
    kind: Literal["positive", "negative", "chart", "caption"]
    source: str  # where it came from: a file's name, or "generated"
    task: str = ""  # as the file says it: "Image Captioning", "negative", ...
    weight: float = 1.0  # of its loss


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark about one image; `label` is the gold answer, if there is one."""

    question_id: str
    benchmark: str
    split: str
    image_id: str
    image: str
    text: str
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model (`base`, `merged`, ...) said to one question."""

    question_id: str
    benchmark: str
    split: str
    model: str
    image_id: str
    text: str
    tokens: int  # generated tokens, the end marker included
    finish: Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Region:
    """A described box of an image, in pixels, as Visual Genome has them."""

    x: float
    y: float
    width: float
    height: float
    phrase: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known about one image: what a judge may rule by."""

    image_id: str
    image: str
    width: int
    height: int
    regions: tuple[Region, ...] = ()
    facts: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()  # names of the objects that are present, where annotated


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a judge is asked: rule on each claim, given the evidence."""

    case_id: str  # the question_id of the answer that makes the claims
    model: str  # whose claims they are; where several models are compared, "" and see claim_models
    claims: tuple[str, ...]
    evidence: Evidence
    rubric: str = "shr"  # how claims are judged: "shr" labels sentences, "gavie" grades answers
    question: str = ""  # what the claims answer, where the judge is to know
    claim_models: tuple[str, ...] = ()  # of each claim, in the order in which they are shown

    def model_of(self, place: int) -> str:
        """Whose claim stands at a place, counted from 0."""
        return self.claim_models[place] if self.claim_models else self.model


Label = Literal["correct", "incorrect", "hallucination", "cannot judge", "scored", "unparsed"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's ruling on one claim; an unreadable reply is `unparsed`, its text kept in `raw`."""

    case_id: str
    model: str
    claim: str
    label: Label
    kind: str = ""  # what sort of hallucination: "absent", "attribute", ... where the judge knows
    reason: str = ""
    raw: str = ""
    scores: dict[str, float] = field(default_factory=dict)  # where label is "scored"
    place: int = 0  # among claims of several models that were shown together, from 1; 0: alone


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of one benchmark; `value` is None, and n 0, where it has no valid denominator."""

    benchmark: str
    split: str
    model: str
    name: str
    value: float | None  # fractions, counts or words; never percent
    n: int  # items the value rests on
    n_unreadable: int = 0
    low: float | None = None  # 95 % interval
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the metrics of one model on one split rest on, without its answers.

    Every ratio is a ratio of two sums over images: `sums` has the numerators and the denominators
    of each metric, one number an image. `right` says of each labelled question, in the order of
    their ids, whether it was answered rightly ("1") or not ("0").
    """

    benchmark: str
    split: str
    model: str
    questions: str  # sha256 of the questions that were answered: ids, images, texts, labels
    n_questions: int
    images: tuple[str, ...]
    sums: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    right: str = ""
