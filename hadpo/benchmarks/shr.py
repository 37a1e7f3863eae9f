"""SHR: which share of the sentences of a description is hallucinated.

A judge rules on each sentence. Sentences that it cannot judge stay in the denominator, unparsed
rulings do not, as in the original; both are counted. Beside the ratio always stand the numbers that
a shorter text would improve or spoil: sentences, words, recall of the objects that are there,
repetitions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally, score
from hadpo.benchmarks._answers import CUT, cut
from hadpo.benchmarks._shr_files import RESPONSES, read_judgement, read_responses
from hadpo.benchmarks._shr_files import write as export
from hadpo.benchmarks._tally import evidence_of
from hadpo.config import STRICT, AtLeastOne
from hadpo.data import Report, Sources
from hadpo.data import shr as data
from hadpo.judges import SENTENCES
from hadpo.judges.oracle.vocabulary import Vocabulary, read_world
from hadpo.records import Answer, BadInput, Case, Evidence, Metric, Question
from hadpo.text import (
    distinct,
    repeated_segments,
    segmentation_of,
    segments,
    word_count,
)

__all__ = [
    "BARS",
    "CUT",
    "MEASURES",
    "RUBRICS",
    "WHOLE",
    "cases",
    "cut",
    "export",
    "questions",
    "read_responses",
    "readings",
    "score_judgement",
    "tally",
]

WHOLE = data.SPLIT
LISTED = (("", "hallucinated_sentence_ratio"),)
BARS = {"hallucinated_sentence_ratio": "hallucinated sentences"}  # drawn in their two kinds
_FACTS = tuple(f"shr_factual_part{part}.jsonl" for part in (1, 2))
FILES = {"shr": ("SHR", ("val_images_final.json", *_FACTS))}
RUBRICS = (SENTENCES,)


def _behind(name: str, *, is_fraction: bool = False, is_read: bool = False) -> Measure:
    """A measure that stands after those that a table is for."""
    unit, label = "percent" if is_fraction else "number", name.replace("_", " ")
    return Measure(name, label, unit, is_headline=False, is_read=is_read)


MEASURES = (
    Measure(
        "hallucinated_sentence_ratio",
        "SHR: hallucinated sentences",
        better="lower",
        is_read=True,
    ),
    Measure(
        "absent_sentence_ratio",
        "sentences with an absent object",
        better="lower",
        is_read=True,
    ),
    Measure(
        "attribute_sentence_ratio",
        "sentences with a wrong attribute",
        better="lower",
        is_read=True,
    ),
    Measure("object_recall", "true objects named", better="higher"),
    Measure("sentences_per_answer", "sentences per answer", "number"),
    Measure("words_per_answer", "words per answer", "number"),
    Measure(
        "repeated_sentences_per_answer",
        "repeated sentences per answer",
        "number",
        better="lower",
    ),
    _behind("hallucinated_word_ratio", is_fraction=True, is_read=True),
    _behind("hallucinated_sentence_ratio_per_image", is_read=True),
    _behind("cannot_judge_ratio", is_fraction=True, is_read=True),
    _behind("tokens_per_answer"),
    _behind("hallucinated_sentences_per_answer", is_read=True),
    _behind("hallucinated_words_per_answer", is_read=True),
    _behind("unfinished_ratio", is_fraction=True),
    *(_behind(f"distinct_{k}") for k in (1, 2, 3, 4)),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    shr: str = ""  # folder with val_images_final.json and shr_factual_part{1,2}.jsonl


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How descriptions are generated and cut into sentences."""

    shr_beams: AtLeastOne = 5  # the papers' setting
    shr_max_new_tokens: AtLeastOne = 512  # LLaVA's own setting
    shr_segmentation: Literal["upstream", "grammar"] = "upstream"  # grammar: not inside 3.5 or Mr.
    shr_responses: str = ""  # file of image ids and descriptions, scored as the model "responses"


def questions(sources: Sources) -> list[Question]:
    """A description of every image; BadInput if Visual Genome lacks one."""
    ids = image_ids(replace(sources, report=Report("skip")))
    return data.questions(ids, sources.images)


def image_ids(sources: Sources) -> list[str]:
    """Ids of the images to describe."""
    if not sources.data.shr:
        return []
    folder = sources.folder("shr", "val_images_final.json")
    return data.image_ids(folder, sources.report)


def evidence(sources: Sources) -> dict[str, Evidence]:
    """The images with the facts that SHR knows of them."""
    if not sources.data.shr:
        return {}
    facts = data.facts(sources.resolve(sources.data.shr), sources.report)
    images = sources.images.items()
    return {key: replace(each, facts=facts[key]) for key, each in images if key in facts}


def readings(settings: Settings) -> dict[str, str]:
    """How descriptions are cut into sentences."""
    return {"": settings.shr_segmentation}


def cases(
    answers: Iterable[Answer],
    questions: Mapping[str, Question],
    evidence: Mapping[str, Evidence],
    settings: Settings,
) -> list[Case]:
    """A case per answer; its claims are the sentences, each with its end, as `shr_segmentation`.

    Raises:
        BadInput: no evidence of an image.
    """
    return [
        Case(
            case_id=answer.question_id,
            model=answer.model,
            claims=tuple(segments(answer.text, settings.shr_segmentation)),
            evidence=evidence_of(answer, evidence),
        )
        for answer in answers
    ]


def tally(answer: Answer, known: Known) -> Tally:
    """What one description adds to the sums.

    Ratios of hallucinated sentences (pooled; of those with an absent object or a wrong attribute;
    the mean of the images' own ratios) and words are over what the judge could be read on.
    `distinct_k`: share of different runs of k words; unfinished: stopped by the length limit. Of
    the control `CUT` and of responses, tokens_per_answer and unfinished_ratio have no value: the
    texts were not generated as they stand.

    Raises:
        BadInput: verdicts that do not fit the answer.
    """
    claims = [verdict.claim for verdict in known.verdicts]
    how = segmentation_of(claims, answer.text)
    if how is None:
        raise BadInput(
            f"{answer.model}, {answer.question_id}: {len(claims)} verdicts on "
            f"{len(segments(answer.text, 'upstream'))} sentences; judge the answers again"
        )
    valid = [v for v in known.verdicts if v.label != "unparsed"]
    wrong = [v for v in known.verdicts if v.label == "hallucination"]
    wrong_words = sum(word_count(v.claim) for v in wrong)
    is_generated = answer.model not in (CUT, RESPONSES)
    found: dict[str, tuple[float, float]] = {
        "hallucinated_sentence_ratio": (len(wrong), len(valid)),
        "absent_sentence_ratio": (sum(v.kind == "absent" for v in wrong), len(valid)),
        "attribute_sentence_ratio": (sum(v.kind == "attribute" for v in wrong), len(valid)),
        "hallucinated_word_ratio": (wrong_words, sum(word_count(v.claim) for v in valid)),
        "hallucinated_sentence_ratio_per_image": (
            len(wrong) / len(valid) if valid else 0.0,
            bool(valid),
        ),
        "cannot_judge_ratio": (
            sum(v.label == "cannot judge" for v in known.verdicts),
            len(valid),
        ),
        "sentences_per_answer": (len(claims), 1),
        "words_per_answer": (sum(word_count(claim) for claim in claims), 1),
        "tokens_per_answer": (is_generated and answer.tokens, is_generated),
        "hallucinated_sentences_per_answer": (len(wrong), 1),
        "hallucinated_words_per_answer": (wrong_words, 1),
        "repeated_sentences_per_answer": (repeated_segments(answer.text, how), 1),
        "unfinished_ratio": (is_generated and answer.finish == "length", is_generated),
        "object_recall": _recall(answer.text, known.evidence, known.vocabulary),
    }
    for length in (1, 2, 3, 4):
        share = distinct(answer.text, length)
        found[f"distinct_{length}"] = (share or 0.0, share is not None)
    return found


def _recall(text: str, evidence: Evidence | None, vocabulary: Vocabulary) -> tuple[int, int]:
    """How many of the objects that are there are named, and how many are there."""
    if evidence is None:
        return 0, 0
    present = read_world(evidence, vocabulary).names
    named = set().union(*(vocabulary.read(sentence).names for sentence in text.split(".")))
    return len(present & named), len(present)


def score_judgement(path: Path, *, samples: int = 1000, seed: int = 42) -> list[Metric]:
    """The metrics, with intervals, of a judgement.json that the original's scripts wrote.

    Object recall has no value: the file does not say what is in the images.

    Raises:
        BadInput: not of that form, or rulings that do not fit the responses.
    """
    answers, verdicts = read_judgement(path)
    found = score("shr", answers, [], verdicts, samples=samples, seed=seed)
    return [metric for metric in found if metric.name != "unanswered"]
