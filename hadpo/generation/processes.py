"""Several processes answer one model's questions, each with the model on a device of its own."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from hadpo.generation.progress import Progress
from hadpo.generation.share import JOB, Job, answered
from hadpo.records import Answer, BadInput, write_text
from hadpo.runs import end_processes, start_processes

_LOOK_SECONDS = 0.5


def generate_in_processes(job: Job, folder: Path, processes: int) -> list[Answer]:
    """Every answer to the job's open questions, in the order of the questions.

    What the processes write stays in `folder` until the caller has kept it, so that a rerun after
    a kill asks only what is missing, with any number of processes.

    Args:
        job: what to answer.
        folder: for the job, the answers of each process, and what they say.
        processes: how many.

    Raises:
        BadInput: images that are missing or cannot be read.
        RuntimeError: a process failed; holds the end of what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / JOB, json.dumps(asdict(job), ensure_ascii=False))
    wanted = [q for part in job.parts for q in part.questions if q.question_id not in job.done]
    said = folder / "log.txt"
    with said.open("w", encoding="utf-8") as log:
        started = start_processes(("hadpo.generation.share", str(folder)), processes, log)
        progress = Progress(job.model, len({q.image for q in wanted}))
        try:
            while started.poll() is None:
                time.sleep(_LOOK_SECONDS)
                progress.done({answer.image_id for answer in answered(folder)})
        finally:
            progress.close()
            end_processes(started)
    found = {answer.question_id: answer for answer in answered(folder)}
    missing = [q for q in wanted if q.question_id not in found]
    if started.returncode or missing:
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        _fail(lines, started.returncode, len(missing))
    return [found[question.question_id] for question in wanted]


def _fail(lines: list[str], code: int, missing: int) -> None:
    text = "\n".join(lines)
    for line in lines:
        if "image files are missing" in line or "no readable image" in line:
            raise BadInput(line)
    raise RuntimeError(
        f"a process that answers questions failed (exit code {code}, {missing} questions are open; "
        f"what is answered is kept): {text[-2000:]}"
    )
