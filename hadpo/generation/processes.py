"""Several processes answer one model's questions, each with the model on a device of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from hadpo.generation.progress import Progress
from hadpo.generation.share import JOB, Job, answered
from hadpo.records import Answer, BadInput, write_text

_LOOK_SECONDS = 0.5
_BAD_INPUT = 2


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
        started = subprocess.Popen(
            _command(folder, processes),
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        )
        progress = Progress(job.model, len({q.image for q in wanted}))
        try:
            while started.poll() is None:
                time.sleep(_LOOK_SECONDS)
                progress.done({answer.image_id for answer in answered(folder)})
        finally:
            progress.close()
            if started.poll() is None:  # interrupted: they form a group of their own
                os.killpg(started.pid, signal.SIGTERM)
                started.wait()
    found = {answer.question_id: answer for answer in answered(folder)}
    missing = [q for q in wanted if q.question_id not in found]
    if started.returncode or missing:
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        _fail(lines, started.returncode, len(missing))
    return [found[question.question_id] for question in wanted]


def _command(folder: Path, processes: int) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        "--multi_gpu",  # several processes, also where there is no GPU
        *("--num_processes", str(processes), "--num_machines", "1"),
        *("--main_process_port", str(port), "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", "hadpo.generation.share", str(folder)),
    ]


def _fail(lines: list[str], code: int, missing: int) -> None:
    text = "\n".join(lines)
    for line in lines:
        if "image files are missing" in line or "no readable image" in line:
            raise BadInput(line)
    raise RuntimeError(
        f"a process that answers questions failed (exit code {code}, {missing} questions are open; "
        f"what is answered is kept): {text[-2000:]}"
    )
