"""One stage of one run, as a notebook holds it: checked settings, paths, and its manifest."""

import contextlib
import copy
import errno
import html
import json
import logging
import os
import platform
import resource
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hadpo import config
from hadpo.records import BadInput, file_hash, flush, refuse_changed
from hadpo.runs import lock
from hadpo.runs.lock import host, started_at
from hadpo.runs.manifest import Manifest, Outputs, describe_code, describe_versions, read_manifest
from hadpo.runs.parameters import RUN_PARAMETERS, effective, from_notebook, settings_table
from hadpo.runs.state import check, finished, look, run_name, settings_of, stage_folder

# A notebook's cells: what they log is shown, and the manifest says truly how they ended.


log = logging.getLogger(__name__)
_open: dict[Path, "Run"] = {}  # the newest run of each folder that this kernel has opened


def watch_notebook(run: "Run") -> None:
    """In a notebook, mark `run` failed when a cell fails; once per folder."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    _open[run.folder] = run
    ours = logging.getLogger("hadpo")
    if not ours.handlers:  # what the library says along the way appears below the cell
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
    shell.events.register("post_run_cell", _after_cell)  # a function it knows is not added again


def _after_cell(result: Any) -> None:
    error = result.error_in_exec or result.error_before_exec
    for run in _open.values():
        if error is not None and run.manifest.status == "running":
            run.fail(error)


class BadEnvironment(RuntimeError):
    """This machine lacks something: the message says what, and the command that fixes it."""

    exit_code = 3


_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "database or disk is full")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it followed from, says that no space is left."""
    while error is not None:
        if any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within it, an error of the disk is a message about `folder`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder) from error
        raise BadInput(f"cannot write to {folder}: {error.strerror}; set HADPO_RUNS") from error


def disk_full(folder: Path) -> BadEnvironment:
    """The error that a folder's disk is full."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return BadEnvironment(
        f"the disk of {folder} is full ({free / 1e6:.1f} MB free); what was saved before is whole, "
        "and the same command goes on from there: make room, or move the runs to a larger disk and "
        "set HADPO_RUNS"
    )


class Run:
    """A stage of a run, open for work.

    Attributes:
        name: of the run; stage: of the stage; folder: `runs/<name>/<stage>`.
        recipe: all settings, overrides laid over them.
        settings: the stage's own section of the recipe.
        manifest: the record that is kept beside the results.
        is_reopened: it was done before, or is another process's: its manifest stays as it is.
    """

    def __init__(self, recipe: config.Recipe, manifest: Manifest, root: Path) -> None:
        self.recipe = recipe
        self.manifest = manifest
        self.name, self.stage = manifest.name, manifest.stage
        self.root = root
        self.folder = root / self.name / self.stage
        self.settings: Any = getattr(recipe, self.stage)
        self.is_mini = recipe.is_mini
        self.is_reopened = False
        self._clock = time.monotonic()

    @property
    def is_done(self) -> bool:
        """Whether the stage was finished before."""
        return self.manifest.status == "done"

    def path(self, *parts: str) -> Path:
        """A path below the stage's folder; the folders above it are made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def earlier(self, stage: str, *parts: str) -> Path:
        """A file of a finished earlier stage: this run's own, else that of the run `from_run`.

        Raises:
            BadInput: that stage is not there or not done, or the file is absent.
        """
        folder = stage_folder(self.root, self.name, stage, self.manifest.earlier)
        manifest = finished(folder, wanted_by=self.stage, recipe=self.recipe.name)
        if manifest.is_mini and not self.is_mini:
            raise BadInput(
                f"run {folder.parent.name!r} is of the mini world; recipe {self.recipe.name} is not"
            )
        if manifest.run_id != self.manifest.parents.setdefault(stage, manifest.run_id):
            raise BadInput(
                f"stage {self.stage} of run {self.name!r} was made from another {stage} than the "
                f"one in {folder}; redo it with --force, or choose another --name"
            )
        if not (path := folder.joinpath(*parts)).exists():
            raise BadInput(f"{path} is absent although stage {stage} is done; redo it with --force")
        return path

    def resolve(self, text: str) -> Path:
        """A path of the recipe, its variables filled in; `${WORLD}` lies in the prepare stage."""
        return config.resolve_path(text, run_folder=self.root / self.name / "prepare")

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and flush it."""
        with self.path("metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest, at once."""
        if not self.is_reopened:
            self.manifest.facts |= facts
            self._write()

    def note_inputs(self, hashes: Mapping[str, str], *, begun: Path | None = None) -> None:
        """Add hashes of input files (`records.input_hashes`) to those in the manifest.

        Args:
            hashes: of what is read today.
            begun: a file of results that an earlier start has begun: its inputs must be the same.

        Raises:
            BadInput: `begun` was made from other inputs; names them.
        """
        noted = self.manifest.facts.get("inputs", {})
        if begun is not None:
            refuse_changed(noted, hashes, where=begun)
        self.note(inputs={**noted, **hashes})

    def note_input(self, path: Path) -> Path:
        """Record the hash of an input file in the manifest; gives the path back.

        Raises:
            BadInput: there is no such file.
        """
        if not path.is_file():
            raise BadInput(f"{path}: no such file; fix the path in the recipe or the parameter")
        if not self.is_reopened:
            self.note_inputs({path.name: file_hash(path)})
        return path

    def effective(self) -> list[dict[str, Any]]:
        """The settings that matter to a reader of the report; see `parameters.effective`."""
        own = config.load_recipe(self.recipe.name)
        asked, before = (settings_of(each, self.stage) for each in (self.recipe, own))
        return effective(asked, self.stage, self.manifest.overrides, before)

    def outputs(self) -> Outputs:
        """What the stage has written, with sizes."""
        return Outputs(self.folder)

    def finish(self) -> None:
        """Mark the stage done; the last thing a notebook does."""
        self._end("done", "")
        log.info("done; hadpo report %s makes the run's page", self.name)

    def fail(self, error: BaseException) -> None:
        """Mark the stage failed or interrupted by `error`."""
        stopped = isinstance(error, KeyboardInterrupt)
        self._end("interrupted" if stopped else "failed", f"{type(error).__name__}: {error}")

    def _end(self, status: Any, error: str) -> None:
        if self.is_done:
            return
        self.manifest.status, self.manifest.error = status, error
        self.manifest.finished = _now()
        if status == "done":
            flush(self.folder)  # the done mark is the last thing that reaches the disk
        self._write()
        lock.give_back(self.folder)

    def _write(self) -> None:
        now = time.monotonic()
        manifest = self.manifest
        manifest.duration_seconds = round(manifest.duration_seconds + now - self._clock, 3)
        self._clock = now
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        manifest.peak_memory_bytes = max(manifest.peak_memory_bytes, peak)
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
            manifest.peak_device_memory_bytes = max(manifest.peak_device_memory_bytes, peak)
        manifest.write(self.folder)

    def _repr_html_(self) -> str:
        mark = " &middot; <b>mini: it teaches, it is not a result</b>" if self.is_mini else ""
        versions = ", ".join(f"{k} {v}" for k, v in self.manifest.versions.items())
        shown = (self.name, self.stage, self.recipe.name, self.recipe.title, self.recipe.notes)
        name, stage, recipe, title, notes = (html.escape(text) for text in shown)
        return (
            f"<p>run <b>{name}</b>, stage <b>{stage}</b>, recipe {recipe} ({title}){mark}<br>"
            f"{notes}<small>{html.escape(versions)}<br>{html.escape(str(self.folder))}</small></p>"
            f"{settings_table(self.effective(), self.stage)}"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def start(stage: str, namespace: Mapping[str, Any]) -> Run:
    """Check a notebook's parameters and open its stage; the first call of every stage notebook.

    Args:
        stage: prepare, train, merge, evaluate or compare.
        namespace: the notebook's `globals()`, with `recipe`, `run`, `from_run` and the overrides.

    Raises:
        BadInput: an unknown, misspelt or mistyped parameter, a run name in use with other
            settings, a folder that cannot be written.
    """
    given = from_notebook(stage, namespace)
    if isinstance(given.get("run"), Run):  # a setup cell that is executed again
        given["run"] = given["run"].name
    recipe, name, earlier = (given.pop(key, None) or "" for key in RUN_PARAMETERS)
    for key, value in zip(RUN_PARAMETERS, (recipe, name, earlier), strict=True):
        if not isinstance(value, str) or (key == "recipe" and not value):
            raise BadInput(f"parameter {key}: expected a {key}'s name, found {value!r}")
    return open_run(stage, recipe, name or run_name(recipe), given, earlier=earlier)


def open_run(
    stage: str, recipe_name: str, name: str, overrides: Mapping[str, Any], *, earlier: str = ""
) -> Run:
    """Open `runs/<name>/<stage>` for work, new or to be continued; see `start`.

    No other process can open it before it is done, has failed, or this process has ended.
    """
    recipe, given = check(stage, recipe_name, name, overrides)
    root = config.runs_folder()
    folder = root / name / stage
    old = look(stage, recipe, name, earlier=earlier)
    with writing(folder):
        if old is None or old.status != "done":
            lock.take(folder)
            old = look(stage, recipe, name, earlier=earlier)  # it may have been done meanwhile
        folder.mkdir(parents=True, exist_ok=True)
    manifest = old or _new_manifest(stage, recipe, name, given, earlier)
    run = Run(recipe, manifest, root)
    run.is_reopened = run.is_done
    if not run.is_reopened:  # it may go on with other settings of how it is computed
        manifest.settings, manifest.overrides = settings_of(recipe, stage), given
    _note_start(manifest)
    if run.is_reopened:
        _note_reopened(manifest, folder)
    else:
        with writing(folder):
            manifest.write(folder)
    watch_notebook(run)
    return run


def _note_reopened(manifest: Manifest, folder: Path) -> None:
    """Note in a finished stage's manifest that it was looked at, unless another process has it."""
    # suppressed: somebody redoes it, or nobody may write there
    with contextlib.suppress(BadInput, OSError), lock.alone(folder):
        now = read_manifest(folder)
        if now is not None and (now.status, now.run_id) == ("done", manifest.run_id):
            manifest.write(folder)


def join_run(
    stage: str, recipe_name: str, name: str, overrides: Mapping[str, Any], *, earlier: str = ""
) -> Run:
    """The same stage as one more process of those that work on it sees it: it notes nothing."""
    recipe, given = check(stage, recipe_name, name, overrides)
    run = Run(recipe, _new_manifest(stage, recipe, name, given, earlier), config.runs_folder())
    run.is_reopened = True
    return run


def _new_manifest(
    stage: str, recipe: config.Recipe, name: str, given: dict[str, Any], earlier: str
) -> Manifest:
    return Manifest(
        name=name,
        stage=stage,
        recipe=recipe.name,
        is_mini=recipe.is_mini,
        settings=settings_of(recipe, stage),
        overrides=given,
        earlier=earlier,
        parents={},
        run_id=uuid.uuid4().hex,
        started=_now(),
    )


def _note_start(manifest: Manifest) -> None:
    """Write down who opens the stage; of a finished one only that it was looked at again."""
    who = {"time": _now(), "pid": os.getpid(), "host": host()}
    if manifest.status == "done":
        manifest.history += (who | {"reopened": True},)
        return
    manifest.status, manifest.error, manifest.host = "running", "", host()
    manifest.pid, manifest.pid_started = os.getpid(), started_at(os.getpid())
    manifest.starts += 1
    manifest.git_commit, manifest.git_dirty = describe_code()
    manifest.versions, manifest.command = {**describe_versions()}, " ".join(sys.argv)
    manifest.machine = f"{platform.system()} {platform.machine()}, {platform.processor() or 'cpu'}"
    noted = ("overrides", "git_commit", "git_dirty", "versions")
    manifest.history += (who | {key: copy.copy(getattr(manifest, key)) for key in noted},)
