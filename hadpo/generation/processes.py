"""Several processes answer one model's questions, each with the model on a device of its own.

A job is a file; process r of n answers its share of the images and appends to `answers-<r>.jsonl`
beside it. The stage starts them on this machine, or any launcher does on many (docs/clusters.md).
What any process has answered in an earlier start, of any number of processes, is not asked again.
"""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
_log = logging.getLogger(__name__)


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
        processes: how many; 0: they are started elsewhere, and waited for.

    Raises:
        BadInput: images that are missing or cannot be read.
        RuntimeError: a process failed; the message holds the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / JOB, json.dumps(asdict(job), ensure_ascii=False))
    wanted = [q for part in job.parts for q in part.questions if q.question_id not in job.done]
    log_file = folder / "log.txt"
    with log_file.open("w", encoding="utf-8") as log:
        module = ("hadpo.generation.processes", str(folder))
        started = start_processes(module, processes, log) if processes else None
        if started is None:
            _log.info("waiting for: python -m %s", " ".join(module))
        progress = Progress(job.model, len({q.image for q in wanted}))
        answers: dict[str, Answer] = {}
        try:
            while started.poll() is None if started else len(answers) < len(wanted):
                looked = time.monotonic()  # a look reads all answers: most of the time, wait
                answers = _answers_to(wanted, folder)
                progress.done({answer.image_id for answer in answers.values()})
                time.sleep(max(_LOOK_SECONDS, 9 * (time.monotonic() - looked)))
        finally:
            progress.close()
            if started:
                end_processes(started)
    answers = _answers_to(wanted, folder)
    missing = [q for q in wanted if q.question_id not in answers]
    if started and (started.returncode or missing):
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


def _answers_to(wanted: Sequence[Question], folder: Path) -> dict[str, Answer]:
    ids = {question.question_id for question in wanted}
    return {a.question_id: a for a in answered(folder) if a.question_id in ids}


def answered(folder: Path) -> Iterator[Answer]:
    """What all processes of this and earlier starts have answered."""
    for path in sorted(folder.glob("answers-*.jsonl")):
        yield from read_jsonl(path, Answer, torn_end=True)


def own_questions(job: Job, rank: int, world: int) -> list[list[Question]]:
    """The questions of each part about one `world`-th of the images: no image is seen by two.

    Dealt by the hash of their names, so that a share holds images of all sources and lengths.
    """
    images = {q.image for part in job.parts for q in part.questions}
    by_hash = sorted(images, key=lambda image: hashlib.sha256(image.encode()).digest())
    own = set(by_hash[rank::world])
    return [[q for q in part.questions if q.image in own] for part in job.parts]


def place_of_process(environment: Mapping[str, str]) -> tuple[int, int]:
    """Which process of how many this is, as its launcher says: torchrun, accelerate, or Slurm.

    The tasks of a Slurm array count on, each with as many processes as `srun` starts.
    """

    def number(name: str, default: int = 0) -> int:
        return int(environment.get(name) or default)

    if "WORLD_SIZE" in environment:
        return number("RANK"), max(1, number("WORLD_SIZE"))
    rank, world = number("SLURM_PROCID"), max(1, number("SLURM_NTASKS", 1))
    task = number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN")
    return task * world + rank, max(1, number("SLURM_ARRAY_TASK_COUNT", 1)) * world


def main(arguments: Sequence[str]) -> None:
    """Answer this process's share of the job in the folder that the argument names.

    Started before the stage has written the job, it waits for it.
    """
    folder = Path(arguments[0])
    while not (folder / JOB).is_file():
        time.sleep(_LOOK_SECONDS)
    job = parse(read_json(folder / JOB, dict, expected=_AGAIN), Job, where=str(folder))
    rank, world = place_of_process(os.environ)
    done = {*job.done, *(answer.question_id for answer in answered(folder))}
    shares = own_questions(job, rank, world)
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
