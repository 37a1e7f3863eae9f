"""Several processes of one job: started through accelerate, ended together, and with us."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hadpo.config import PACKAGE, RECIPES
from hadpo.records import BadInput
from hadpo.runs.lock import is_alive
from hadpo.runs.manifest import read_manifest

# SIGTERM, which a cluster sends before it takes a machine away: work is saved, then it ends.


class Stopped(KeyboardInterrupt):
    """SIGTERM came: the message says what was saved, and that the same command goes on."""

    exit_code = 130


class Notice:
    """Whether SIGTERM has come; `remember` is what to do when it does."""

    def __init__(self, tell: Callable[[], Any]) -> None:
        self._tell = tell
        self._has_come = False

    def __call__(self) -> bool:
        return self._has_come

    def remember(self, *_: Any) -> None:
        """Note it, and tell whoever is to know."""
        self._has_come = True
        self._tell()


@contextmanager
def noticed(tell: Callable[[], Any] = lambda: None) -> Iterator[Notice]:
    """Within it, SIGTERM does not end the process: it is remembered, and `tell` is called.

    Outside the main thread Python cannot listen: there it never comes.
    """
    notice = Notice(tell)
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = signal.signal(signal.SIGTERM, notice.remember)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, before)


def pass_on(folder: Path) -> None:
    """Send SIGTERM to the process that works on a stage's folder, if it is another one."""
    try:
        manifest = read_manifest(folder)
    except BadInput:  # it cannot be read, so nobody is known who works there
        return
    if manifest is None or manifest.status != "running" or manifest.is_elsewhere:
        return
    if manifest.pid != os.getpid() and is_alive(manifest.pid, manifest.pid_started):
        os.kill(manifest.pid, signal.SIGTERM)


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
    command += ["--num_processes", str(count), "--main_process_port", str(port), "-m", *module]
    places = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    environment = {"PYTHONPATH": os.pathsep.join(places)}
    environment |= {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_END_SECONDS)}
    return subprocess.Popen(
        command,
        stdout=output.fileno(),
        stderr=subprocess.STDOUT,
        env=os.environ | environment,
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
