"""SHR: which share of the sentences of a description is hallucinated.

A judge rules on each sentence. Sentences that it cannot judge stay in the denominator, unparsed
rulings do not, as in the original; both are counted. Beside the ratio always stand the numbers that
a shorter text would improve or spoil: sentences, words, recall of the objects that are there,
repetitions.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from hadpo.benchmarks._decoding import decoding_of
from hadpo.benchmarks._shr_files import write as export
from hadpo.benchmarks._shr_measures import COLUMNS, CUT, RATIOS, count, metric, metrics, recall
from hadpo.config import STRICT, AtLeastOne
from hadpo.data.shr import SPLIT, questions
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput, Case, Evidence, Metric, Question, Verdict
from hadpo.text import first_segments, segmentation_of, segments

if TYPE_CHECKING:
    from hadpo.generation import Decoding

__all__ = [
    "CUT",
    "READINGS",
    "RUBRIC",
    "SPLIT",
    "cases",
    "cut",
    "decoding",
    "export",
    "questions",
    "readings",
    "score",
    "sums",
]

RUBRIC = "shr"  # how a judge is to rule on the cases
READINGS = {"": "upstream"}  # sentences as the original segments them; see `readings`


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


def decoding(settings: Any) -> "Decoding":
    """How descriptions are generated."""
    return decoding_of("shr", settings)


def readings(settings: Any) -> dict[str, str]:
    """How descriptions are cut into sentences."""
    return {"": settings.shr_segmentation}


def cases(
    answers: Iterable[Answer],
    evidence: Mapping[str, Evidence],
    questions: Sequence[Question] = (),
    settings: Any | None = None,
) -> list[Case]:
    """A case per answer; its claims are the sentences, each with its end, as `shr_segmentation`.

    Raises:
        BadInput: no evidence of an image.
    """
    how = "upstream" if settings is None else settings.shr_segmentation
    found = []
    for answer in answers:
        if answer.image_id not in evidence:
            raise BadInput(f"no evidence of image {answer.image_id}: it cannot be judged")
        claims = tuple(segments(answer.text, how))
        found.append(
            Case(
                case_id=answer.question_id,
                model=answer.model,
                claims=claims,
                evidence=evidence[answer.image_id],
            )
        )
    return found


def cut(
    base: Iterable[Answer], tuned: Iterable[Answer], settings: Any | None = None
) -> list[Answer]:
    """The base's descriptions, each cut to the sentence count of the tuned model's.

    The control for saying less: whatever this row gains over the base, it gains by length alone. A
    text that is cut was not generated as it stands: its `tokens` are 0, and no metric of it
    rests on how answers were generated.
    """
    how = "upstream" if settings is None else settings.shr_segmentation
    length = {a.question_id: len(segments(a.text, how)) for a in tuned}
    found = []
    for answer in base:
        if answer.question_id not in length:
            continue
        text = first_segments(answer.text, length[answer.question_id], how)
        is_whole = text == answer.text.rstrip()
        tokens = answer.tokens if is_whole else 0
        finish = answer.finish if is_whole else "stop"
        found.append(replace(answer, model=CUT, text=text, tokens=tokens, finish=finish))
    return found


def score(
    answers: Sequence[Answer],
    questions: Sequence[Question],
    verdicts: Sequence[Verdict],
    evidence: Mapping[str, Evidence],
    vocabulary: Vocabulary,
    *,
    samples: int = 1000,
    seed: int = 42,
    settings: Any | None = None,
) -> list[Metric]:
    """The metrics of every model.

    Args:
        answers: descriptions, of any number of models.
        questions: what was asked; those without an answer are counted.
        verdicts: one per sentence.
        evidence: by image id; its objects are what recall counts.
        vocabulary: the words that name objects.
        samples: resampled image sets behind each interval.
        seed: of the resampling.
        settings: not used.

    Returns:
        hallucinated_sentence_ratio (pooled) and, of it, absent_ and attribute_sentence_ratio;
        hallucinated_word_ratio; hallucinated_sentence_ratio_per_image (mean of the images' own
        ratios); sentences_, words_, hallucinated_sentences_, hallucinated_words_,
        repeated_sentences_ and tokens_per_answer; distinct_1 to distinct_4; object_recall;
        cannot_judge_ratio; unfinished_ratio (answers stopped by the length limit); unanswered.
        Of the control `CUT`, tokens_per_answer and unfinished_ratio have no value: its texts are
        cut, not generated.

    Raises:
        BadInput: verdicts that do not fit the answers.
    """
    ruled: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        ruled[verdict.model, verdict.case_id].append(verdict)
    found: list[Metric] = []
    for model in dict.fromkeys(a.model for a in answers):
        own = [a for a in answers if a.model == model]
        rows, lost = [], 0
        for answer in own:
            rulings = ruled.get((model, answer.question_id), [])
            if segmentation_of([v.claim for v in rulings], answer.text) is None:
                raise BadInput(
                    f"{model}, {answer.question_id}: {len(rulings)} verdicts on "
                    f"{len(segments(answer.text, 'upstream'))} sentences; judge the answers again"
                )
            lost += sum(v.label == "unparsed" for v in rulings)
            objects = recall(answer.text, evidence.get(answer.image_id), vocabulary)
            rows.append(count(answer, rulings, objects))
        counts = np.array([[row[name] for name in COLUMNS] for row in rows], dtype=float)
        counts = counts.reshape(len(rows), len(COLUMNS))
        found += metrics(model, counts, lost, samples=samples, seed=seed)
        missing = len(questions) - len({a.question_id for a in own})
        found.append(metric(model, "unanswered", float(missing), len(questions)))
    return found


def sums(
    answers: Iterable[Answer],
    questions: Sequence[Question],
    verdicts: Iterable[Verdict],
    evidence: Mapping[str, Evidence],
    vocabulary: Vocabulary,
) -> Iterator[tuple[Answer, dict[str, tuple[float, float]]]]:
    """What each answer adds to numerator and denominator of the metrics."""
    ruled: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        ruled[verdict.model, verdict.case_id].append(verdict)
    for answer in answers:
        objects = recall(answer.text, evidence.get(answer.image_id), vocabulary)
        row = count(answer, ruled[answer.model, answer.question_id], objects)
        yield answer, {name: (row[over], row[under]) for name, (over, under) in RATIOS.items()}
