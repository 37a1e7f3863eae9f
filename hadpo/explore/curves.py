"""Training curves of any number of runs, drawn anew while a training goes on."""

import asyncio
import contextlib
import html
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from hadpo import config
from hadpo.figures import training_curves
from hadpo.plugins import choices
from hadpo.records import BadInput
from hadpo.runs import Run, read_manifest

SECONDS = 3.0


class LiveCurves:
    """Curves of the runs that are ticked; with "live" on, they follow the files.

    Attributes:
        logs: run -> its `metrics.jsonl`.
        widget: ticks, the switch and the picture, for JupyterLab.
    """

    def __init__(self, logs: dict[str, Path], *, is_mini: bool) -> None:
        self.logs, self._is_mini = logs, is_mini
        self._drawn: Any = None
        self._task: asyncio.Task | None = None
        self.ticks = {
            name: widgets.Checkbox(value=True, description=name, indent=False) for name in logs
        }
        self.live = widgets.ToggleButton(
            value=False, description="live", tooltip=f"look at the files every {SECONDS:g} seconds"
        )
        self.again = widgets.Button(description="draw anew")
        self.shown = widgets.HTML()
        for tick in self.ticks.values():
            tick.observe(lambda _: self.refresh(), "value")
        self.again.on_click(lambda _: self.refresh())
        self.live.observe(lambda _: self._follow(), "value")
        controls = widgets.HBox([*self.ticks.values(), self.again, self.live])
        self.widget = widgets.VBox([controls, self.shown])
        self.refresh()

    def refresh(self) -> bool:
        """Draw, if a file or the choice has changed since; whether it has."""
        chosen = [name for name, tick in self.ticks.items() if tick.value]
        sizes = [self.logs[n].stat().st_size if self.logs[n].is_file() else 0 for n in chosen]
        state = (chosen, sizes)
        if state == self._drawn:
            return False
        self._drawn = state
        logs = {name: self.logs[name] for name, size in zip(chosen, sizes, strict=True) if size}
        try:
            figure = training_curves(
                next(iter(logs.values())) if len(self.logs) == 1 and logs else logs
            )
            figure = figure.as_mini() if self._is_mini else figure
            self.shown.value = figure._repr_html_()
        except BadInput as error:  # nothing ticked, or nothing written yet
            self.shown.value = f"<p>{html.escape(str(error))}</p>"
        return True

    def _follow(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.live.value:
            with contextlib.suppress(RuntimeError):  # no loop: nobody could press the button
                self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            self.refresh()
            await asyncio.sleep(SECONDS)

    def _repr_mimebundle_(self, **wanted: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = self.widget._repr_mimebundle_(**wanted) or {}
        bundle["text/html"] = self.shown.value
        bundle["text/plain"] = f"training curves of {', '.join(self.logs)}"
        return bundle


def browse_training(*runs: Run | str) -> LiveCurves:
    """Training curves of runs, finished or still training.

    Raises:
        BadInput: no such run.
    """
    logs: dict[str, Path] = {}
    is_mini = False
    for run in runs:
        name = run if isinstance(run, str) else run.name
        root = config.runs_folder() if isinstance(run, str) else run.root
        manifest = read_manifest(root / name / "train")
        if manifest is None:
            known = [path.parents[1].name for path in root.glob("*/train/manifest.json")]
            raise BadInput(f"no training of a run {name!r} in {root}; {choices(name, known)}")
        logs[name] = root / name / "train" / "metrics.jsonl"
        is_mini = is_mini or manifest.is_mini
    return LiveCurves(logs, is_mini=is_mini)
