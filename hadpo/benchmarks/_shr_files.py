"""SHR in the original's files: responses in, judgement.json in and out, metrics.json out."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hadpo.data.shr import SPLIT
from hadpo.records import Answer, BadInput, Metric, Question, Verdict, read_json, write_json

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


def read_responses(path: Path, questions: Sequence[Question]) -> list[Answer]:
    """Answers of the model `responses`, from the file that the original's json_eval.py reads.

    Raises:
        BadInput: not of that form, images that nobody asked about, or images without a response;
            all are listed.
    """
    said = read_json(path, dict, expected=_EXPECTED_RESPONSES)
    broken = [key for key, text in said.items() if not isinstance(text, str)]
    asked = {question.image_id: question for question in questions}
    unknown, missing = sorted(said.keys() - asked.keys()), sorted(asked.keys() - said.keys())
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:20])}{' ...' if len(keys) > 20 else ''}"
        for keys, what in (
            (broken, "responses that are no texts"),
            (unknown, "images that are not asked about"),
            (missing, "images without a response"),
        )
        if keys
    ]
    if problems:
        raise BadInput(f"{path}: {'; '.join(problems)}; {_EXPECTED_RESPONSES}")
    return [_answer(key, said[key], question.question_id) for key, question in asked.items()]


def read_judgement(path: Path) -> tuple[list[Answer], list[Verdict]]:
    """The responses and verdicts of an original judgement.json, which holds one run.

    Both spellings of the original's key for the response are read (`model_response`, and
    `mode_response` of json_eval.py). A class that is none of the three is `unparsed`.

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
        if not isinstance(value, dict) or not isinstance(value.get("judgement"), list):
            raise BadInput(f"{where}: no list judgement; {_EXPECTED_JUDGEMENT}")
        text = value.get("model_response", value.get("mode_response"))
        if not isinstance(text, str):
            raise BadInput(f"{where}: no text model_response; {_EXPECTED_JUDGEMENT}")
        answers.append(_answer(key, text, f"shr-{key}"))
        for each in value["judgement"]:
            if not isinstance(each, dict) or not isinstance(each.get("model_response"), str):
                raise BadInput(f"{where}: a judgement without model_response")
            label: Any = each.get("classification")
            verdicts.append(
                Verdict(
                    case_id=f"shr-{key}",
                    model=RESPONSES,
                    claim=each["model_response"],
                    label=label if label in _KNOWN else "unparsed",
                    reason=str(each.get("judgement") or ""),
                    raw=str(each.get("judgement") or ""),
                )
            )
    return answers, verdicts


def write(
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
        _write(place("shr", model, "judgement.json"), {_RUN: found})
        _write(place("shr", model, "metrics.json"), _original(values[model], len(found)))


def _image(answer: Answer, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    lines = [f"{n}. {_said(v)}" for n, v in enumerate(verdicts, start=1)]
    return {
        "raw_judgement": "\n".join(["Judgement:", *lines]),
        "model_response": answer.text,
        "judgement": [
            {
                "model_response": verdict.claim,
                "judgement": None if verdict.label == "unparsed" else _said(verdict),
                "classification": None if verdict.label == "unparsed" else verdict.label,
            }
            for verdict in verdicts
        ],
    }


def _said(verdict: Verdict) -> str:
    return f"{verdict.label}: {verdict.reason}"


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
        split=SPLIT,
        model=RESPONSES,
        image_id=image_id,
        text=text,
        tokens=0,  # not known
        finish="stop",
    )


def _write(path: Path, value: Any) -> None:
    write_json(path, value, indent=2, ensure_ascii=False)
