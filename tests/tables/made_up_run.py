"""A finished run, made up: all its files, from one seed, with answers that yield its metrics."""

import functools
import json
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hadpo.benchmarks._tally import Benchmark, outcomes, tallies
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.records import Answer, Metric, Question, Verdict, write_jsonl
from hadpo.runs import Manifest

SPLITS = ("random", "popular", "adversarial")
MODELS = {
    "base": (0.93, 0.25, 0.30, 6),
    "merged": (0.90, 0.10, 0.15, 5),
    "sft": (0.90, 0.11, 0.16, 5),
}

MEASURED = (
    *("accuracy", "precision", "recall", "f1", "yes_ratio", "words_per_answer"),
    *("hallucinated_sentence_ratio", "absent_sentence_ratio", "attribute_sentence_ratio"),
    *("sentences_per_answer", "repeated_sentences_per_answer"),
)


def write_run(
    folder: Path,
    name: str = "mini-llava",
    *,
    seed: int = 1,
    images: int = 20,
    beta: float = 0.1,
    earlier: str = "",
    earlier_stages: tuple[str, ...] = ("prepare",),
) -> None:
    """Write `folder/name/{prepare,train,evaluate}` as the stages do; the same again is a copy.

    Args:
        folder: of the runs.
        name: of the run.
        seed: of its training and of the made-up answers.
        images: as many descriptions, and for POPE six questions each.
        beta: of its training.
        earlier: the run that it was started from (`--from`); empty: none.
        earlier_stages: with `earlier`, the stages that are read there and not written here.
    """
    made = _made(name, seed, images, beta, earlier, earlier_stages)
    shutil.copytree(Path(made.name) / name, folder / name)


@functools.cache
def _made(
    name: str, seed: int, images: int, beta: float, earlier: str, earlier_stages: tuple[str, ...]
) -> tempfile.TemporaryDirectory:
    """A folder with the run in it, which lasts as long as the process."""
    made = tempfile.TemporaryDirectory()
    draw = random.Random(seed)
    questions, answers, verdicts = [], [], []
    for split in SPLITS:
        for i in range(images * 6):
            label = "yes" if i % 2 == 0 else "no"
            questions.append(
                Question(
                    question_id=f"pope-{split}-{i}",
                    benchmark="pope",
                    split=split,
                    image_id=str(i // 6),
                    image="x.png",
                    text="Is there a cup in the image?",
                    label=label,
                )
            )
    for i in range(images):
        ids = {"question_id": f"shr-{i}", "image_id": str(i), "image": "x.png"}
        questions.append(Question(benchmark="shr", split="val", text="Describe.", **ids))
    for model, (right, wrong, invented, length) in MODELS.items():
        for q in questions:
            if q.benchmark == "pope":
                yes = draw.random() < (right if q.label == "yes" else wrong)
                text = "Yes." if yes else "No."
            else:
                claims = [f"There is a red cup number {k}." for k in range(length)]
                text = " ".join(claims)
                verdicts += _rule(q, model, claims, invented, draw)
            answers.append(
                Answer(
                    question_id=q.question_id,
                    benchmark=q.benchmark,
                    split=q.split,
                    model=model,
                    image_id=q.image_id,
                    text=text,
                    tokens=len(text.split()),
                    finish="stop",
                )
            )
    cut = []
    for answer in answers:
        if (answer.benchmark, answer.model) == ("shr", "base"):
            claims = [f"There is a red cup number {k}." for k in range(5)]
            q = next(q for q in questions if q.question_id == answer.question_id)
            verdicts += _rule(q, "base_cut", claims, 0.2, draw)
            cut.append(replace(answer, model="base_cut", text=" ".join(claims)))
    nothing = from_json({"objects": [], "attributes": {}, "scenes": []})
    found = []
    for benchmark in map(Benchmark.named, ("pope", "shr")):
        asked = [q for q in questions if q.benchmark == benchmark.name]
        own = [a for a in [*answers, *cut] if a.benchmark == benchmark.name]
        found += outcomes(benchmark, tallies(benchmark, own, asked, verdicts, {}, nothing), asked)
    metrics = []
    for outcome in found:
        split, model = outcome.split, outcome.model
        place = {"benchmark": outcome.benchmark, "split": split, "model": model}
        for metric in [m for m in outcome.sums if m in MEASURED]:
            top, bottom = (sum(values) for values in outcome.sums[metric])
            value, n = (top / bottom, int(bottom)) if bottom else (None, 0)
            metrics.append(Metric(name=metric, value=value, n=n, **place))
        if outcome.benchmark == "pope":
            metrics += _confusion(split, model, questions, answers)
    for model, recall in (("base", 0.85), ("merged", 0.80)):
        ends = {"low": recall - 0.03, "high": recall + 0.04}
        place = {"benchmark": "shr", "split": "val", "model": model, "name": "object_recall"}
        metrics.append(Metric(value=recall, n=images * 3, **place, **ends))
    run = Path(made.name) / name
    own = {"prepare", "train", "evaluate"} - set(earlier_stages if earlier else ())
    if "prepare" in own:
        write_jsonl(run / "prepare" / "questions.jsonl", questions)
    write_jsonl(run / "evaluate" / "samples.jsonl", answers)
    write_jsonl(run / "evaluate" / "verdicts.jsonl", verdicts)
    write_jsonl(run / "evaluate" / "outcomes.jsonl", found)
    write_jsonl(run / "evaluate" / "metrics.jsonl", metrics)
    steps = [
        {"objective": "dpo", "step": k, "epoch": 0.0, "metrics": {"loss": 0.69}} for k in range(3)
    ]
    if "train" in own:
        (run / "train").mkdir(parents=True)
        (run / "train" / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    settings = {
        "evaluate": {
            "model": {"backbone": "llava/mini"},
            "evaluate": {
                "benchmark_names": "pope,shr",
                "judge": "oracle",
                "prompt": "evaluate",
                "pope_beams": 1,
                "pope_max_new_tokens": 8,
                "shr_beams": 1,
                "shr_max_new_tokens": 100,
                "repetition_penalty": 1.0,
                "questions_limit": 0,
                "evaluate_seed": 42,
            },
        },
        "train": {"train": {"gamma": 2.0, "beta": beta, "loss": "sigmoid", "train_seed": seed}},
        "prepare": {"prepare": {"prepare_seed": 42}},
    }
    for stage, section in settings.items():
        if stage not in own:
            continue
        Manifest(
            name=name,
            stage=stage,
            recipe="mini/llava",
            is_mini=True,
            settings=section,
            overrides={},
            earlier=earlier,
            parents={},
            run_id=f"{name}-{stage}",
            status="done",
            started="2026-01-02T03:04:05+00:00",
            duration_seconds=61.0,
            versions={"python": "3.11", "torch": "2.13.0"},
        ).write(run / stage)
    return made


def _rule(
    question: Question, model: str, claims: list[str], invented: float, draw: random.Random
) -> list[Verdict]:
    found = []
    for claim in claims:
        wrong = draw.random() < invented
        found.append(
            Verdict(
                case_id=question.question_id,
                model=model,
                claim=claim,
                label="hallucination" if wrong else "correct",
                kind=("absent" if draw.random() < 0.4 else "attribute") if wrong else "",
            )
        )
    return found


def _confusion(
    split: str, model: str, questions: list[Question], answers: list[Answer]
) -> list[Metric]:
    labels = {q.question_id: q.label for q in questions if q.split == split}
    counts = dict.fromkeys(
        ("true_positives", "false_positives", "true_negatives", "false_negatives"), 0
    )
    for answer in answers:
        if answer.model != model or answer.question_id not in labels:
            continue
        said, label = answer.text == "Yes.", labels[answer.question_id] == "yes"
        name = f"{'true' if said == label else 'false'}_{'positives' if said else 'negatives'}"
        counts[name] += 1
    return [
        Metric(
            benchmark="pope", split=split, model=model, name=name, value=float(count), n=len(labels)
        )
        for name, count in counts.items()
    ]
