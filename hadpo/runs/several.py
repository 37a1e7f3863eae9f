"""Several processes of one job: started through accelerate, ended together, and with us."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

from hadpo.config import PACKAGE, RECIPES

_END_SECONDS = 120  # that processes have to save their work and end
_PR_SET_PDEATHSIG = 1


def start_processes(
    module: Sequence[str], count: int, output: IO[str], *, parallel: str = "ddp"
) -> subprocess.Popen[bytes]:
    """Start a module in several processes; they end when this one is killed.

    Args:
        module: its name, and its arguments.
        count: how many processes.
        output: gets all that they say.
        parallel: which of `recipes/accelerate` says what they share.

    Returns:
        Their launcher; `end_processes` ends them all.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(RECIPES / "accelerate" / f"{parallel}.yaml")]
    command += ["--num_processes", str(count), "--main_process_port", str(port)]
    places = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return subprocess.Popen(
        [*command, "-m", *module],
        stdout=output.fileno(),
        stderr=subprocess.STDOUT,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(places),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_END_SECONDS),
        },
        start_new_session=True,  # Ctrl-C is for us: they are asked to end by SIGTERM
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


def end_processes(launcher: subprocess.Popen[bytes]) -> None:
    """Ask all processes to save their work and end, and wait for it."""
    if launcher.poll() is not None:
        return
    launcher.terminate()
    try:
        launcher.wait(timeout=_END_SECONDS + 10)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def _end_with_parent() -> None:
    """Runs in the child: it is to get SIGTERM when the notebook's kernel is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
