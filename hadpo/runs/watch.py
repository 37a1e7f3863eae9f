"""A notebook's cells: what they log is shown, and the manifest says truly how they ended."""

import logging
import sys
from pathlib import Path
from typing import Any, Protocol

from hadpo.runs.manifest import Manifest


class Watched(Protocol):
    """What is asked of an open run."""

    folder: Path
    manifest: Manifest

    def fail(self, error: BaseException) -> None: ...


_open: dict[Path, Watched] = {}  # the newest run of each folder that this kernel has opened


def watch_notebook(run: Watched) -> None:
    """Mark `run` failed when a cell fails, where this is a notebook; once per folder."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    _open[run.folder] = run
    _show_log()
    shell.events.register("post_run_cell", _after_cell)  # a function it knows is not added again


def _show_log() -> None:
    """What the library says along the way (progress, usage) appears below the cell."""
    ours = logging.getLogger("hadpo")
    if not ours.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)


def _after_cell(result: Any) -> None:
    error = result.error_in_exec or result.error_before_exec
    if error is None:
        return
    for run in _open.values():
        if run.manifest.status == "running":
            run.fail(error)
