"""Several processes answer one model's questions, each with the model on a device of its own.

A job is a file; process r of n, which `accelerate launch -m` starts as this module, answers every
n-th image and appends to `answers-<r>.jsonl` beside it. What any process has answered in an earlier
start is not asked again.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hadpo import backbones
from hadpo.config import ModelConfig, Recipe
from hadpo.generation.answering import Progress, generate
from hadpo.generation.decoding import Decoding
from hadpo.records import (
    Answer,
    BadInput,
    Question,
    append_jsonl,
    drop_torn_end,
    parse,
    read_json,
    read_jsonl,
    write_text,
)
from hadpo.runs import end_processes, start_processes

JOB = "job.json"
_AGAIN = "run the stage again"
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Part:
    """Questions that are decoded alike."""

    decoding: Decoding
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one model is to answer, and how."""

    model: str  # name that the answers carry
    settings: dict[str, Any]  # the recipe's section `model`
    files: dict[str, str]
    parts: tuple[Part, ...]
    prompt: Literal["train", "evaluate"] = "evaluate"
    batch_questions: int = 0
    batch_memory_gib: float = 0.0
    exact: bool = False
    done: tuple[str, ...] = field(default_factory=tuple)  # question ids


def generate_in_processes(job: Job, folder: Path, processes: int) -> list[Answer]:
    """Every answer to the job's open questions, in the order of the questions.

    What the processes write stays in `folder` until the caller has saved it, so that a rerun after
    a kill asks only what is missing, with any number of processes.

    Args:
        job: what to answer.
        folder: for the job, the answers of each process, and their output.
        processes: how many.

    Raises:
        BadInput: images that are missing or cannot be read.
        RuntimeError: a process failed; the message holds the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / JOB, json.dumps(asdict(job), ensure_ascii=False))
    wanted = [q for part in job.parts for q in part.questions if q.question_id not in job.done]
    log_file = folder / "log.txt"
    with log_file.open("w", encoding="utf-8") as log:
        started = start_processes(("hadpo.generation.processes", str(folder)), processes, log)
        progress = Progress(job.model, len({q.image for q in wanted}))
        try:
            while started.poll() is None:
                time.sleep(_LOOK_SECONDS)
                progress.done({answer.image_id for answer in answered(folder)})
        finally:
            progress.close()
            end_processes(started)
    answers = {answer.question_id: answer for answer in answered(folder)}
    missing = [q for q in wanted if q.question_id not in answers]
    if started.returncode or missing:
        lines = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        _fail(lines, started.returncode, len(missing))
    return [answers[question.question_id] for question in wanted]


def _fail(lines: list[str], code: int, missing: int) -> None:
    text = "\n".join(lines)
    for line in lines:
        if "image files are missing" in line or "no readable image" in line:
            raise BadInput(line)
    raise RuntimeError(
        f"a process that answers questions failed (exit code {code}, {missing} questions are open; "
        f"what is answered is kept): {text[-2000:]}"
    )


def answered(folder: Path) -> Iterator[Answer]:
    """What all processes of this and earlier starts have answered."""
    for path in sorted(folder.glob("answers-*.jsonl")):
        yield from read_jsonl(path, Answer, torn_end=True)


def own_questions(job: Job, rank: int, world: int) -> list[list[Question]]:
    """The questions of each part about every `world`-th image: no image is seen by two."""
    images = list(dict.fromkeys(q.image for part in job.parts for q in part.questions))
    own = set(images[rank::world])
    return [[q for q in part.questions if q.image in own] for part in job.parts]


def main(arguments: Sequence[str]) -> None:
    """Answer this process's share of the job in the folder that the argument names."""
    folder = Path(arguments[0])
    job = parse(read_json(folder / JOB, dict, expected=_AGAIN), Job, where=str(folder))
    rank, world = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE"))
    done = {*job.done, *(answer.question_id for answer in answered(folder))}
    shares = own_questions(job, rank, max(world, 1))
    path = folder / f"answers-{rank}.jsonl"
    drop_torn_end(path)
    recipe = Recipe(name=job.model, title=job.model, model=ModelConfig(**job.settings))
    backbone = backbones.load_for(recipe, job.files)
    for part, questions in zip(job.parts, shares, strict=True):
        answers = generate(
            backbone,
            questions,
            part.decoding,
            prompt=job.prompt,
            batch_questions=job.batch_questions,
            batch_memory_gib=job.batch_memory_gib,
            model=job.model,
            done=done,
            exact=job.exact,
        )
        for _ in append_jsonl(path, answers):
            pass


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BadInput as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
