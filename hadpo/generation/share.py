"""One of the processes that share the images of a model: `accelerate launch -m` this module.

A job is a file; process r of n answers every n-th image and appends to `answers-<r>.jsonl` beside
it. What any process has answered in an earlier start is not asked again.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hadpo import backbones
from hadpo.config import Recipe
from hadpo.config.sections import ModelConfig
from hadpo.generation.answering import generate
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
)

JOB = "job.json"
_AGAIN = "run the stage again"


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


def answered(folder: Path) -> Iterator[Answer]:
    """What all processes of this and earlier starts have answered."""
    for path in sorted(folder.glob("answers-*.jsonl")):
        yield from read_jsonl(path, Answer, torn_end=True)


def own_questions(job: Job, rank: int, world: int) -> list[list[Question]]:
    """The questions of each part about every `world`-th image: no image is seen by two."""
    images = list(dict.fromkeys(q.image for part in job.parts for q in part.questions))
    mine = set(images[rank::world])
    return [[q for q in part.questions if q.image in mine] for part in job.parts]


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
