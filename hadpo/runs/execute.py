"""Execute a stage's notebook through papermill; however it ends, it ends in one clear outcome."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hadpo import config
from hadpo.records import BadInput
from hadpo.runs.lock import alone
from hadpo.runs.manifest import read_manifest
from hadpo.runs.report import write_report
from hadpo.runs.run import BadEnvironment, disk_full, is_disk_full, writing
from hadpo.runs.several import Stopped, noticed, pass_on
from hadpo.runs.state import check, discard, finished, look, refuse_stale, stage_folder

NOTEBOOKS = {
    "prepare": "01_prepare.ipynb",
    "train": "02_train.ipynb",
    "merge": "03_merge.ipynb",
    "evaluate": "04_evaluate.ipynb",
    "compare": "05_compare.ipynb",
}
_log = logging.getLogger(__name__)


class StageFailed(RuntimeError):
    """A stage's notebook ended in an error; the message says which and where the copy lies."""

    exit_code = 1


class Outcome(NamedTuple):
    """How a stage ended: its folder, and whether anything had to be done."""

    folder: Path
    was_done: bool
    seconds: float


def notebook_path(stage: str) -> Path:
    """The notebook of a stage in the checkout."""
    path = config.ROOT / "notebooks" / NOTEBOOKS[stage]
    if not path.is_file():
        raise BadEnvironment(
            f"no notebook {path}; run hadpo from its checkout (git clone, make demo)"
        )
    return path


def execute(
    stage: str,
    recipe: str,
    name: str,
    overrides: Mapping[str, Any],
    *,
    from_run: str = "",
    force: bool = False,
) -> Outcome:
    """Run one stage; a stage that is done with the same settings is left as it is.

    Raises:
        BadInput: bad parameters or input, found before or inside the notebook.
        BadEnvironment: something is missing on this machine.
        StageFailed: any other error of a cell, or a kernel that died.
        KeyboardInterrupt: Ctrl-C, or, as Stopped, SIGTERM, which the notebook's process is told of;
            the manifest says so, and a rerun goes on from there.
    """
    resolved, given = check(stage, recipe, name, overrides)
    folder = config.runs_folder() / name / stage
    old = None if force else look(stage, resolved, name, earlier=from_run)
    if old is not None:
        refuse_stale(old)
        if old.status == "done":
            if not (folder / "report.html").is_file():
                _try_report(folder)
            return Outcome(folder, was_done=True, seconds=0.0)
    for earlier in _needed(stage, resolved):
        source = stage_folder(config.runs_folder(), name, earlier, from_run)
        refuse_stale(finished(source, wanted_by=stage, recipe=recipe))
    with writing(folder), alone(folder):
        again = None if force else look(stage, resolved, name, earlier=from_run)
        if again is not None and again.status == "done":  # by another process, just now
            return Outcome(folder, was_done=True, seconds=0.0)
        if force:  # only now that nothing else is in the way
            discard(name, stage)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        if resolved.is_mini:
            os.environ["HF_HUB_OFFLINE"] = "1"  # the mini world needs no network
        given = {"recipe": recipe, "run": name, "from_run": from_run} | given
        _run_notebook(stage, folder, given)
    manifest = read_manifest(folder)
    if manifest is None or manifest.status != "done":
        raise StageFailed(
            f"stage {stage} ended without finishing: {folder / 'notebook.ipynb'}; its last cell "
            "must call run.finish()"
        )
    return Outcome(folder, was_done=False, seconds=time.monotonic() - started)


def _run_notebook(stage: str, folder: Path, parameters: Mapping[str, Any]) -> None:
    """Execute a stage's notebook into its folder; raises as `execute` does."""
    with noticed(tell=lambda: pass_on(folder)) as is_told:
        try:
            _papermill(stage, folder, parameters, on_term=is_told.remember)
        except KeyboardInterrupt as error:
            _close(folder, error)
            raise
        except Exception as error:
            cause = _translate(error, stage, folder)
            if is_told() and not isinstance(cause, Stopped):
                cause = Stopped(f"stage {stage} was stopped by SIGTERM; the same command goes on")
            _close(folder, cause)
            raise cause from error
        finally:
            _try_report(folder)


def _try_report(folder: Path) -> None:
    """Write the stage's report; if that fails, the stage's own outcome is what counts."""
    try:
        write_report(folder)
    except Exception as error:  # noqa: BLE001 - a notebook cut off by a full disk, odd output, ...
        why = f"{type(error).__name__}: {str(error)[:200]}"
        _log.warning("no %s (%s); the same command makes it again", folder / "report.html", why)


def refuse_other_run(stage: str, recipe: config.Recipe, name: str, *, earlier: str) -> None:
    """Refuse, before any work, a stage that `execute` could not go on with; see `look`."""
    manifest = look(stage, recipe, name, earlier=earlier)
    if manifest is not None:
        refuse_stale(manifest, where_gone=True)


def discard_all(stages: Sequence[str], name: str) -> None:
    """Delete stages of a run, so that they are done anew.

    Raises:
        BadInput: a process works on one of them; then none is deleted.
    """
    with contextlib.ExitStack() as held:
        for each in stages:
            held.enter_context(alone(config.runs_folder() / name / each))
        for each in reversed(stages):
            discard(name, each)


def _needed(stage: str, recipe: config.Recipe) -> tuple[str, ...]:
    """The earlier stages of the run that must be done first."""
    if stage == "compare" and recipe.compare.run_names:  # it reads those runs, none of its own
        return ()
    if stage == "merge" and recipe.merge.adapter_folder:  # a published adapter needs no training
        return ()
    before = recipe.stages[: recipe.stages.index(stage)]
    # What is merged knows its training, and becomes stale with it.
    return tuple(each for each in before if each != "train" or "merge" not in before)


def _own_kernel() -> type:
    """A kernel manager that starts this interpreter, whatever kernels the user has installed."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    own = KernelSpec(argv=argv, display_name="hadpo", language="python")
    return type("OwnKernel", (AsyncKernelManager,), {"kernel_spec": property(lambda self: own)})


def _papermill(
    stage: str, folder: Path, parameters: Mapping[str, Any], *, on_term: Callable[[], None]
) -> None:
    import papermill
    from traitlets.config import Config

    from hadpo.runs import translator  # noqa: F401  # where no entry point is installed

    def listen(**_: Any) -> None:  # nbclient's own handler would give the kernel five seconds
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_term)

    kernel = Config()
    kernel.NotebookClient.on_cell_start = listen
    kernel.NotebookClient.kernel_manager_class = _own_kernel()
    kernel.KernelManager.transport_encryption = "auto"  # ipykernel >= 7.3 warns without it
    papermill.execute_notebook(
        notebook_path(stage),
        folder / "notebook.ipynb",
        parameters=dict(parameters),
        kernel_name="python3",
        progress_bar=sys.stderr.isatty(),
        autosave_cell_every=30,
        request_save_on_cell_execute=True,
        config=kernel,
        extra_arguments=["--log-level=50"],  # else a stopped kernel logs its traceback
    )


def _close(folder: Path, error: BaseException) -> None:
    """Have the manifest say how the stage ended where the notebook itself could not."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.status not in ("running", "interrupted"):
        return
    manifest.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    manifest.error = _first_line(error)
    with contextlib.suppress(OSError):  # a full disk: the error itself says so
        manifest.write(folder)


def _translate(error: Exception, stage: str, folder: Path) -> BaseException:
    """The error to show: the cause in one line, and where the executed copy lies."""
    copy = f"the executed copy is {folder / 'notebook.ipynb'}"
    cause = getattr(error, "ename", "")
    message = str(getattr(error, "evalue", "")) or _first_line(error)
    for kind in (BadInput, BadEnvironment, Stopped):
        if cause == kind.__name__:
            return kind(message)
    if is_disk_full(error):
        return disk_full(folder)
    if type(error).__name__ == "DeadKernelError":
        return StageFailed(f"stage {stage}: the kernel died (out of memory?); {copy}")
    if cause == "KeyboardInterrupt":
        return StageFailed(f"stage {stage} was interrupted; rerun to go on; {copy}")
    where = f" in cell {cell}" if (cell := getattr(error, "exec_count", None)) else ""
    return StageFailed(
        f"stage {stage} failed{where}: {cause or type(error).__name__}: {message}; {copy}"
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1] if text else ''}".removesuffix(": ")
