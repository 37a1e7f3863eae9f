"""Several processes: started through accelerate, followed by their metrics, ended as one."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hadpo.config import PACKAGE, RECIPES
from hadpo.records import BadInput, write_text
from hadpo.runs import BadEnvironment, Stopped, noticed
from hadpo.trainer import log
from hadpo.trainer.loop import StepMetrics

if TYPE_CHECKING:
    from hadpo.runs import Run

_PATIENCE_SECONDS = 0.3  # between two looks at the log
_END_SECONDS = 120  # that processes have to save their work and end
_PR_SET_PDEATHSIG = 1
# What a process may end with that is a message to the user; anything else is a fault of ours.
_SPOKEN = {kind.__name__: kind for kind in (BadInput, BadEnvironment, FloatingPointError, Stopped)}


def is_one_of_several() -> bool:
    """Whether this process was started as one of several, by accelerate or torchrun."""
    return "WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Whether this is the process that writes; true where there is only one."""
    return os.environ.get("RANK", "0") == "0"


def follow(run: Run) -> Iterator[StepMetrics]:
    """Start the processes of a training and yield the steps that they write, as they come.

    Interrupted or told to stop, it lets them save their work; if it dies, they stop as well.

    Args:
        run: an open train stage, whose log holds only what a restart keeps.

    Raises:
        BadInput, BadEnvironment, FloatingPointError, Stopped: what ended one of them.
        RuntimeError: one died without a word; the others were stopped.
    """
    path, words = run.path("metrics.jsonl"), run.path("workers")
    shutil.rmtree(words, ignore_errors=True)
    words.mkdir()
    seen, size = len(log.read(path)), -1
    with (words / "log.txt").open("w", encoding="utf-8") as output, noticed() as is_asked:
        launcher = _start(run, output.fileno())
        try:
            is_over = False
            while not is_over:
                is_over = launcher.poll() is not None
                if is_asked():
                    launcher.terminate()
                now = path.stat().st_size if path.is_file() else 0
                if now != size:
                    found = log.read(path)
                    yield from found[seen:]
                    seen, size = max(seen, len(found)), now
                if not is_over:
                    time.sleep(_PATIENCE_SECONDS)
        finally:
            _end(launcher)
    if launcher.returncode:
        raise _what_happened(words, run.recipe.train.processes)


def leave_word(folder: Path, error: BaseException | None) -> None:
    """Write down how this process ended, for `follow` to read."""
    rank = os.environ.get("RANK", "0")
    kind = type(error).__name__ if error is not None else ""
    text = json.dumps({"kind": kind, "message": str(error or "")})
    write_text(folder / f"process-{rank}.json", text)


def _start(run: Run, output: int) -> subprocess.Popen[bytes]:
    settings = run.recipe.train
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(RECIPES / "accelerate" / f"{settings.parallel}.yaml")]
    command += ["--num_processes", str(settings.processes), "--main_process_port", str(port)]
    command += ["-m", "hadpo.worker", "--run", str(run.folder.parent), "--followed"]
    places = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(places),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_END_SECONDS),
        },
        start_new_session=True,  # Ctrl-C is for us: they are asked to end by SIGTERM
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


def _end_with_parent() -> None:
    """Runs in the child: it is to get SIGTERM when the notebook's kernel is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Ask all processes to save their work and end, and wait for it."""
    if launcher.poll() is not None:
        return
    launcher.terminate()
    try:
        launcher.wait(timeout=_END_SECONDS + 10)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def _what_happened(words: Path, processes: int) -> BaseException:
    """The one error to show of those that the processes left, or of the word that is missing."""
    found = {}
    for path in sorted(words.glob("process-*.json")):
        found[path.stem.removeprefix("process-")] = json.loads(path.read_text(encoding="utf-8"))
    for value in found.values():
        if value["kind"] in _SPOKEN:
            return _SPOKEN[value["kind"]](value["message"])
    rest = f"the others were stopped; what they said is in {words / 'log.txt'}"
    silent = [str(rank) for rank in range(processes) if str(rank) not in found]
    if silent:
        return RuntimeError(
            f"process {', '.join(silent)} of {processes} died without a word (killed? out of "
            f"memory?); {rest}; the same command goes on from the newest checkpoint"
        )
    failed = next((v for v in found.values() if v["kind"]), {"kind": "accelerate", "message": ""})
    return RuntimeError(f"a process failed: {failed['kind']}: {failed['message']}; {rest}")
