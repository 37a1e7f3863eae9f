"""SHR: which share of the sentences of a description is hallucinated.

A judge rules on each sentence. Sentences that it cannot judge stay in the denominator, unparsed
rulings do not, as in the original; both are counted. Beside the ratio always stand the numbers that
a shorter text would improve or spoil: sentences, words, recall of the objects that are there,
repetitions.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally, score
from hadpo.benchmarks._answers import CUT, cut
from hadpo.benchmarks._tally import evidence_of
from hadpo.config import STRICT, AtLeastOne
from hadpo.data import Report, Sources
from hadpo.data import shr as data
from hadpo.judges import SENTENCES
from hadpo.judges.oracle.vocabulary import Vocabulary, read_world
from hadpo.records import (
    Answer,
    BadInput,
    Case,
    Evidence,
    Metric,
    Question,
    Verdict,
    parse,
    read_json,
    write_json,
)
from hadpo.text import distinct, repeated_segments, segmentation_of, segments, word_count

__all__ = ["CUT", "cut"]

WHOLE = data.SPLIT
LISTED = (("", "hallucinated_sentence_ratio"),)
BARS = {"hallucinated_sentence_ratio": "hallucinated sentences"}  # drawn in their two kinds
_FACTS = tuple(f"shr_factual_part{part}.jsonl" for part in (1, 2))
FILES = {"shr": ("SHR", ("val_images_final.json", *_FACTS))}
RUBRICS = (SENTENCES,)
RESPONSES = "responses"  # the model that a file of responses counts as
_RUN = "run1"  # the original judged once, under this name
_KNOWN = ("hallucination", "correct", "cannot judge")
_METRICS = {  # original name -> ours
    "sents_per_image": "sentences_per_answer",
    "words_per_image": "words_per_answer",
    "hal_sents_per_image": "hallucinated_sentences_per_answer",
    "hal_words_per_image": "hallucinated_words_per_answer",
    "hal_sents_ratio": "hallucinated_sentence_ratio",
    "hal_words_ratio": "hallucinated_word_ratio",
}
_EXPECTED_RESPONSES = "expected SHR's responses: an object of image ids and descriptions"
_EXPECTED_JUDGEMENT = "expected SHR's judgement.json: an object of runs, each one of image ids"


def _behind(*names: str, unit: Any = "number", is_read: bool = False) -> Iterator[Measure]:
    """Measures that stand after those that a table is for."""
    for name in names:
        yield Measure(name, name.replace("_", " "), unit, is_headline=False, is_read=is_read)


_judged = partial(Measure, better="lower", is_read=True)
MEASURES = (
    _judged("hallucinated_sentence_ratio", "SHR: hallucinated sentences"),
    _judged("absent_sentence_ratio", "sentences with an absent object"),
    _judged("attribute_sentence_ratio", "sentences with a wrong attribute"),
    Measure("object_recall", "true objects named", better="higher"),
    Measure("sentences_per_answer", "sentences per answer", "number"),
    Measure("words_per_answer", "words per answer", "number"),
    Measure("repeated_sentences_per_answer", "repeated sentences per answer", "number", "lower"),
    *_behind("hallucinated_word_ratio", unit="percent", is_read=True),
    *_behind("hallucinated_sentence_ratio_per_image", is_read=True),
    *_behind("cannot_judge_ratio", unit="percent", is_read=True),
    *_behind("tokens_per_answer"),
    *_behind("hallucinated_sentences_per_answer", "hallucinated_words_per_answer", is_read=True),
    *_behind("unfinished_ratio", unit="percent"),
    *_behind(*(f"distinct_{length}" for length in (1, 2, 3, 4))),
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
    folder = sources.folder("shr", "val_images_final.json")
    return data.image_ids(folder, sources.report)


def evidence(sources: Sources) -> dict[str, Evidence]:
    """The images with the facts that SHR knows of them."""
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
    """A case per answer; its claims are the sentences, each with its end, as `shr_segmentation`."""
    return [
        Case(
            case_id=answer.question_id,
            model=answer.model,
            claims=tuple(segments(answer.text, settings.shr_segmentation)),
            evidence=evidence_of(answer.image_id, evidence.get(answer.image_id)),
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
    n_valid, n_words = len(valid), sum(word_count(verdict.claim) for verdict in valid)
    n_open = sum(verdict.label == "cannot judge" for verdict in known.verdicts)
    found: dict[str, tuple[float, float]] = {
        "hallucinated_sentence_ratio": (len(wrong), n_valid),
        "absent_sentence_ratio": (sum(v.kind == "absent" for v in wrong), n_valid),
        "attribute_sentence_ratio": (sum(v.kind == "attribute" for v in wrong), n_valid),
        "hallucinated_word_ratio": (wrong_words, n_words),
        "hallucinated_sentence_ratio_per_image": (len(wrong) / (n_valid or 1), bool(valid)),
        "cannot_judge_ratio": (n_open, n_valid),
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


def read_responses(path: Path, questions: Sequence[Question]) -> list[Answer]:
    """Answers of the model `responses`, from the file that the original's json_eval.py reads.

    Raises:
        BadInput: not of that form, images that nobody asked about, or images without a response;
            all are listed.
    """
    said = read_json(path, dict, expected=_EXPECTED_RESPONSES)
    asked = {question.image_id: question for question in questions}
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:20])}{' ...' if len(keys) > 20 else ''}"
        for what, keys in {
            "responses that are no texts": [k for k, text in said.items() if type(text) is not str],
            "images that are not asked about": sorted(said.keys() - asked.keys()),
            "images without a response": sorted(asked.keys() - said.keys()),
        }.items()
        if keys
    ]
    if problems:
        raise BadInput(f"{path}: {'; '.join(problems)}; {_EXPECTED_RESPONSES}")
    return [_answer(key, said[key], question.question_id) for key, question in asked.items()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ruling:
    """One of a judgement; of `response` both of the original's spellings are read."""

    model_response: str
    judgement: Any = None
    classification: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Judged:
    judgement: list[_Ruling]
    model_response: str | None = None
    mode_response: str | None = None  # so json_eval.py spells it


def read_judgement(path: Path) -> tuple[list[Answer], list[Verdict]]:
    """The responses and verdicts of an original judgement.json, which holds one run.

    A class that is none of the three is `unparsed`.

    Raises:
        BadInput: not of that form, or of several runs.
    """
    runs = read_json(path, dict, expected=_EXPECTED_JUDGEMENT)
    if len(runs) > 1:
        raise BadInput(
            f"{path}: {len(runs)} runs ({', '.join(runs)}); expected one: write each into a file "
            "of its own and score them one by one"
        )
    images = next(iter(runs.values()), None)
    if not isinstance(images, dict) or not images:
        raise BadInput(f"{path}: no images; {_EXPECTED_JUDGEMENT}")
    answers, verdicts = [], []
    for key, value in images.items():
        where = f"{path}: image {key}"
        raw = parse(value, _Judged, where=where, extra="ignore")
        text = raw.mode_response if raw.model_response is None else raw.model_response
        if text is None:
            raise BadInput(f"{where}: no text model_response; {_EXPECTED_JUDGEMENT}")
        answers.append(_answer(key, text, f"shr-{key}"))
        for each in raw.judgement:
            label: Any = each.classification if each.classification in _KNOWN else "unparsed"
            verdicts.append(
                Verdict(
                    case_id=f"shr-{key}",
                    model=RESPONSES,
                    claim=each.model_response,
                    label=label,
                    reason=str(each.judgement or ""),
                    raw=str(each.judgement or ""),
                )
            )
    return answers, verdicts


def export(
    answers: Iterable[Answer],
    verdicts: Iterable[Verdict],
    metrics: Iterable[Metric],
    place: Callable[..., Path],
) -> None:
    """Write `shr/<model>/judgement.json` and `metrics.json` for every model.

    The judge's raw reply is not kept by claim: `raw_judgement` is put together from the rulings.
    """
    ruled: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        ruled[verdict.model, verdict.case_id].append(verdict)
    values: dict[str, dict[str, float | None]] = defaultdict(dict)
    for metric in metrics:
        values[metric.model][metric.name] = metric.value
    images: dict[str, dict[str, Any]] = defaultdict(dict)
    for answer in answers:
        own = ruled[answer.model, answer.question_id]
        images[answer.model][answer.image_id] = _image(answer, own)
    for model, found in images.items():
        for name, content in (
            ("judgement.json", {_RUN: found}),
            ("metrics.json", _original(values[model], len(found))),
        ):
            write_json(place("shr", model, name), content, indent=2, ensure_ascii=False)


def _image(answer: Answer, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    said = [f"{verdict.label}: {verdict.reason}" for verdict in verdicts]
    lines = [f"{number}. {text}" for number, text in enumerate(said, start=1)]
    return {
        "raw_judgement": "\n".join(["Judgement:", *lines]),
        "model_response": answer.text,
        "judgement": [
            {
                "model_response": verdict.claim,
                "judgement": None if verdict.label == "unparsed" else text,
                "classification": None if verdict.label == "unparsed" else verdict.label,
            }
            for verdict, text in zip(verdicts, said, strict=True)
        ],
    }


def _original(values: Mapping[str, float | None], images: int) -> dict[str, Any]:
    """The original's metrics.json; its "repetition" is our distinct_1 to distinct_4."""

    def rounded(name: str) -> float | None:
        value = values.get(name)
        return None if value is None else round(value, 3)

    run = {"num_images": images} | {name: rounded(ours) for name, ours in _METRICS.items()}
    grams = {f"gram-{k}-repetition": values.get(f"distinct_{k}") for k in (1, 2, 3, 4)}
    return {_RUN: run, **grams, "mean_hal_ratio": run["hal_sents_ratio"]}


def _answer(image_id: str, text: str, question_id: str) -> Answer:
    return Answer(
        question_id=question_id,
        benchmark="shr",
        split=WHOLE,
        model=RESPONSES,
        image_id=image_id,
        text=text,
        tokens=0,  # not known
        finish="stop",
    )


def score_judgement(path: Path, *, samples: int = 1000, seed: int = 42) -> list[Metric]:
    """The metrics, with intervals, of a judgement.json that the original's scripts wrote.

    Object recall has no value: the file does not say what is in the images.

    Raises:
        BadInput: not of that form, or rulings that do not fit the responses.
    """
    answers, verdicts = read_judgement(path)
    found = score("shr", answers, [], verdicts, samples=samples, seed=seed)
    return [metric for metric in found if metric.name != "unanswered"]
