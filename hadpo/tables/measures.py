"""What each metric is called in a table, its unit, and which direction is better: data."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """How a metric is shown; `name` is the metric's own."""

    name: str
    label: str
    is_fraction: bool = True  # a fraction in files, percent in tables
    better: Literal["higher", "lower", ""] = ""
    is_headline: bool = True  # in the main comparison, not only in the benchmark's table

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label} (%)" if self.is_fraction else self.label


MEASURES: dict[str, tuple[Measure, ...]] = {
    "pope": (
        Measure("accuracy", "accuracy", better="higher"),
        Measure("f1", "F1", better="higher"),
        Measure("precision", "precision", better="higher", is_headline=False),
        Measure("recall", "recall", better="higher", is_headline=False),
        Measure("yes_ratio", "yes ratio"),
    ),
    "shr": (
        Measure("hallucinated_sentence_ratio", "SHR: hallucinated sentences", better="lower"),
        Measure("absent_sentence_ratio", "sentences with an absent object", better="lower"),
        Measure("attribute_sentence_ratio", "sentences with a wrong attribute", better="lower"),
        Measure("object_recall", "true objects named", better="higher"),
        Measure("sentences_per_answer", "sentences per answer", is_fraction=False),
        Measure("words_per_answer", "words per answer", is_fraction=False),
        Measure("repeated_sentences_per_answer", "repeated sentences per answer", False, "lower"),
    ),
    "gavie": (
        Measure("relevancy", "GAVIE: relevancy (0-10)", is_fraction=False, better="higher"),
        Measure("accuracy", "GAVIE: accuracy (0-10)", is_fraction=False, better="higher"),
        Measure("words_per_answer", "words per answer", is_fraction=False),
    ),
    "chair": (
        Measure("chair_i", "CHAIR: mentions of absent objects", better="lower"),
        Measure("chair_s", "CHAIR: answers with one", better="lower"),
        Measure("chair_sentence", "CHAIR: sentences with one", better="lower", is_headline=False),
        Measure("object_recall", "true objects named", better="higher"),
        Measure("words_per_answer", "words per answer", is_fraction=False),
    ),
}
MODELS = {  # what a metric's `model` says -> what a table says; in the order of the tables
    "base": "base",
    "merged": "tuned",
    "base_cut": "base, cut to the same length",
    "sft": "finetuned on the chosen texts only",
}
WORDS = "words_per_answer"
_FRACTIONS = ("ratio", "share", "accuracy", "precision", "recall", "f1", "rate")


def measure_of(benchmark: str, name: str) -> Measure:
    """The measure of a metric; one that is not listed goes by its own name, after the listed."""
    for measure in MEASURES.get(benchmark, ()):
        if measure.name == name:
            return measure
    return Measure(name, name.replace("_", " "), name.endswith(_FRACTIONS), is_headline=False)


def model_title(model: str) -> str:
    """What a table calls a model."""
    return MODELS.get(model, model)


def models_in_order(models: Iterable[str]) -> list[str]:
    """Each model once, in the order of the tables; those that they do not know last, by name."""
    known = set(models)
    return [m for m in MODELS if m in known] + sorted(known - MODELS.keys())
