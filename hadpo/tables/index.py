"""The index of a folder of runs: every stage with its status, recipe, key numbers and duration."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from hadpo.config import SECTIONS
from hadpo.records import Metric, read_jsonl
from hadpo.runs import Manifest, list_manifests, read_manifest
from hadpo.tables._table import MISSING, Column, Table, show
from hadpo.tables.measures import declared, measure_of, split_title
from hadpo.tables.results import RunResults

_VALUES = (
    *("run", "stage", "status", "recipe", "is_mini", "started", "duration_seconds"),
    *("key_numbers", "cost_usd", "error"),
)
_COLUMNS = (
    Column("Run", "run"),
    Column("Stage", "stage"),
    Column("Status", "status"),
    Column("Recipe", lambda r: r["recipe"] + (" (mini)" if r["is_mini"] else "")),
    Column("Key numbers", "key_numbers"),
    Column("Cost", lambda r: None if r["cost_usd"] is None else f"${r['cost_usd']:.2f}"),
    Column("Duration", lambda r: _duration(r["duration_seconds"])),
    Column("Error", lambda r: (r["error"] or MISSING).splitlines()[0][:80]),
)


def run_index(runs_folder: Path) -> Table:
    """Every stage of every run below `runs_folder`, the unfinished and the failed too."""
    found = list_manifests(runs_folder)
    places = [(manifest, runs_folder / manifest.name / manifest.stage) for manifest in found]
    return _index(places, f"Runs in {runs_folder.name}")


def compared_index(results: Sequence[RunResults]) -> Table:
    """The stages of the runs that are compared, wherever they were read."""
    folders = (r.folders[stage] for r in results for stage in SECTIONS if stage in r.folders)
    places = [(manifest, folder) for folder in folders if (manifest := read_manifest(folder))]
    return _index(places, "The runs that are compared")


def _index(places: Iterable[tuple[Manifest, Path]], caption: str) -> Table:
    rows = []
    for manifest, folder in places:
        row = {name: getattr(manifest, name, None) for name in _VALUES}
        row |= {"run": manifest.name, "key_numbers": _key_numbers(manifest, folder) or None}
        rows.append(row | {"cost_usd": _cost(manifest), "error": manifest.error or None})
    return Table(
        name="runs",
        caption=caption,
        rows=rows,
        columns=_COLUMNS,
        values=_VALUES,
        is_mini=bool(rows) and all(row["is_mini"] for row in rows),
    )


def _cost(manifest: Manifest) -> float | None:
    """Dollars that the stage's last start paid a judge, None if no judge was paid."""
    bills = (f.get("bill", {}) for f in manifest.facts.values() if isinstance(f, dict))
    costs = [bill["cost_usd"] for bill in bills if "cost_usd" in bill]
    return sum(costs) if costs else None


def _key_numbers(manifest: Manifest, folder: Path) -> str:
    path = folder / "metrics.jsonl"
    if manifest.stage not in ("train", "evaluate") or not path.is_file():
        return ""
    if manifest.stage == "train":
        return _last_step(path)
    found: dict[tuple[str, str, str], dict[str, float | None]] = {}
    for m in read_jsonl(path, Metric, torn_end=True):
        found.setdefault((m.benchmark, m.split, m.name), {})[m.model] = m.value
    texts = []
    for (benchmark, split, name), values in found.items():
        if {(split, name), ("", name)} & {*declared(benchmark, "LISTED", ())}:
            measure = measure_of(benchmark, name)
            ends = (
                show(values.get(m), is_fraction=measure.is_fraction) for m in ("base", "merged")
            )
            place = split_title(benchmark, split)
            place = f"{place} {measure.label}" if place else benchmark.upper()
            texts.append(f"{place} {' → '.join(ends)} %")
    return "; ".join(texts)


def _last_step(path: Path) -> str:
    """Loss and accuracy of the last complete line of a training log."""
    last = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            last = json.loads(line)
        except json.JSONDecodeError:  # the torn end of a killed run
            continue
    values = last.get("metrics", last)
    names = {"loss": "loss", "rewards/accuracies": "accuracy"}
    texts = [f"{title} {values[name]:.3f}" for name, title in names.items() if name in values]
    return ", ".join([f"step {last['step']}", *texts]) if "step" in last else ", ".join(texts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
