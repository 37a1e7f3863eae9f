"""The search, and the headline with its intervals, as CSV and Markdown; from the exports alone."""

import csv
import io
import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hadpo import config
from hadpo.records import Outcome, read_jsonl
from hadpo.tables import RunResults, compare_runs, model_title, read_results, tables_of_runs
from hadpo.tables.intervals import clear_of_zero, two_level_difference
from hadpo.tables.results import REPRODUCED
from tools.claims.beyond import FILE

log = logging.getLogger(__name__)
SEARCH, WORLDS = REPRODUCED / "search", REPRODUCED  # where the runs of each are exported
DEFECTS = REPRODUCED / "defects"
TABLES = REPRODUCED / "ranked"
COMPARED = {"results": "", "ablations": "overview"}  # recipe -> the one table that is kept, or all
TUNED = "merged"
SAMPLES = 2000  # draws behind an interval
Place = tuple[str, str, str]  # benchmark, split, metric
Row = dict[str, str | float | int | None]
MEASURES: dict[Place, tuple[str, int]] = {  # -> its name, and what it is shown times
    ("claims", "val", "f1"): ("F1 (%)", 100),
    ("claims", "val", "precision"): ("precision (%)", 100),
    ("claims", "val", "recall"): ("recall (%)", 100),
    ("claims", "val", "wrong_claims_per_answer"): ("wrong claims a text", 1),
    ("claims", "val", "absent_claims_per_answer"): ("of them absent", 1),
    ("claims", "val", "place_errors_per_answer"): ("wrong place", 1),
    ("claims", "val", "attribute_errors_per_answer"): ("other attribute", 1),
    ("claims", "val", "claims_per_answer"): ("claims a text", 1),
    ("claims", "val", "empty_sentences_per_answer"): ("empty sentences a text", 1),
    ("claims", "val", "sentences_per_answer"): ("sentences a text", 1),
    ("pope", "adversarial", "accuracy"): ("POPE adversarial (%)", 100),
    ("pope", "adversarial", "yes_ratio"): ("yes ratio (%)", 100),
    ("neutral", "place", "drift"): ("drift (nats a token)", 1),
    ("claims", "another request", "f1"): ("F1, another request (%)", 100),
}
Sums = Mapping[tuple[Place, str], np.ndarray]  # place, model -> images 2


def write() -> None:
    """Write the tables of whatever was exported."""
    TABLES.mkdir(exist_ok=True)
    found = search_rows(sorted(path.parent.parent for path in SEARCH.glob("*/evaluate/*.json")))
    _write("search", found)
    runs = {path.name.removesuffix(f".{FILE}"): path for path in sorted(TABLES.glob(f"*.{FILE}"))}
    if runs:
        sums = {name: read_sums(read_results(name, WORLDS), path) for name, path in runs.items()}
        means, differences = headline_rows(sums)
        _write("every_run", every_run_rows(sums))
        _write("means", means)
        _write("differences", differences)
        (TABLES / "headline.md").write_text(headline(means, differences), encoding="utf-8")
    found = defect_rows(sorted(path.name for path in DEFECTS.glob("*-seed-*")))
    if found:
        _write("defects", found)
        (TABLES / "defects.md").write_text(defects(found), encoding="utf-8")
    for recipe, kept in COMPARED.items():
        asked = config.load_recipe(recipe).compare
        names = config.names(asked.run_names)
        if absent := [name for name in names if not (REPRODUCED / name).is_dir()]:
            log.warning("no tables of %s: not exported: %s", recipe, ", ".join(absent))
            continue
        folder = REPRODUCED / (recipe if kept else "tables")
        folder.mkdir(exist_ok=True)
        made = compare_runs(
            names,
            runs_folder=TABLES,  # which holds no run: their exports are read
            reported=config.names(asked.reported),
            reported_backbone=asked.reported_backbone,
        )
        for table in tables_of_runs(made).tables:
            for form in ("csv", "md") if kept in ("", table.name) else ():
                (folder / f"{table.name}.{form}").write_text(table.to(form), encoding="utf-8")


def search_rows(folders: Iterable[Path]) -> list[Row]:
    """What each method reached with each rate and length; `chosen`: its highest F1.

    Of equal ones the lower rate.
    """
    rows: list[Row] = []
    for folder in dict.fromkeys(folders):
        result = read_results(folder.name, folder.parent)
        train, data = result.settings["train"], result.settings.get("data", {})
        for model in result.models:
            place = ("claims", "val")
            rows.append(
                {
                    "method": "dpo" if model == TUNED else model,
                    "learning_rate": train["learning_rate"],
                    "steps": train["steps"],
                    **{name: result.value((*place, name, model)) for name in _SEARCHED},
                    "world": data.get("mini_seed"),
                    "train_seed": train["train_seed"],
                    "run": result.name,
                }
            )
    rows.sort(key=lambda row: [row[name] for name in ("method", "steps", "learning_rate")])  # pyright: ignore[reportCallIssue,reportArgumentType]
    best: dict[object, Row] = {}
    for row in sorted(rows, key=lambda row: (-float(row["f1"] or 0), row["learning_rate"])):
        best.setdefault(row["method"], row)
    return [row | {"chosen": int(row is best[row["method"]])} for row in rows]


def defect_rows(names: Sequence[str]) -> list[Row]:
    """What each defect changes in preference training: with it minus without it, same seeds."""
    rows: list[Row] = []
    places = [
        place for place in MEASURES if place[:2] in {("claims", "val"), ("pope", "adversarial")}
    ]
    for defect in dict.fromkeys(name.partition("-world-")[0] for name in names):
        own = [name for name in names if name.startswith(f"{defect}-world-")]
        runs = [name.removeprefix(f"{defect}-") for name in own]
        pairs = [
            (read_results(run, WORLDS), read_results(name, DEFECTS))
            for run, name in zip(runs, own, strict=True)
        ]
        for place in places:
            key = (*place, TUNED)
            sums = [pair[0].paired(key, TUNED, of=pair[1]) for pair in pairs]
            both = [pair for pair in sums if pair is not None]
            each = [_ratio(with_it) - _ratio(without) for without, with_it in both]
            worlds = [run.partition("-seed-")[0] for run in runs]
            low, high = two_level_difference(both, worlds, samples=SAMPLES) or (None, None)
            row: Row = {"defect": defect}
            row |= dict(zip(("benchmark", "split", "metric"), place, strict=True))
            row |= {"worlds": len({*worlds}), "runs": len(both), "images": len(both[0][0])}
            row |= {"without": math.fsum(_ratio(a) for a, _ in both) / len(both)}
            row |= {"difference": math.fsum(each) / len(each), "low": low, "high": high}
            rows.append(row)
    return [row | {"clear": int(c)} for row, c in zip(rows, clear_of_zero(rows), strict=True)]


_SEARCHED = ("f1", "precision", "recall", "wrong_claims_per_answer")


def read_sums(result: RunResults, beyond: Path) -> Sums:
    """The sums by image of every measure and model of a run."""
    found = {
        ((benchmark, split, name), model): np.array([*sums.values()])
        for (benchmark, split, name, model), sums in result.items.items()
        if (benchmark, split, name) in MEASURES
    }
    for outcome in read_jsonl(beyond, Outcome):
        for name, pair in outcome.sums.items():
            place = (outcome.benchmark, outcome.split, name)
            if place in MEASURES:
                found[place, outcome.model] = np.array(pair).T
    return found


def every_run_rows(runs: Mapping[str, Sums]) -> list[Row]:
    """Every run's value of every measure and method."""
    return [
        {"run": run, "method": model, "benchmark": place[0], "split": place[1], "metric": place[2]}
        | {"value": _ratio(sums[place, model]), "images": len(sums[place, model])}
        for run, sums in runs.items()
        for place in MEASURES
        for _, model in (key for key in sums if key[0] == place)
    ]


def headline_rows(runs: Mapping[str, Sums]) -> tuple[list[Row], list[Row]]:
    """Means over all runs, and what the tuned model has more than each other one.

    Intervals: `two_level_difference`, images of each world and its training seeds drawn anew.
    """
    models = dict.fromkeys(model for sums in runs.values() for _, model in sums)
    means: list[Row] = []
    differences: list[Row] = []
    for place, model in itertools.product(MEASURES, models):
        own = {run: sums for run, sums in runs.items() if (place, model) in sums}
        if not own:
            continue
        row: Row = dict(zip(("benchmark", "split", "metric"), place, strict=True))
        values = [_ratio(sums[place, model]) for sums in own.values()]
        worlds = [run.partition("-seed-")[0] for run in own]
        row |= {"method": model, "worlds": len({*worlds}), "runs": len(own)}
        row["images"] = min(len(sums[place, model]) for sums in own.values())
        means.append(row | {"mean": math.fsum(values) / len(values)})
        if model == TUNED or (place, TUNED) not in next(iter(own.values())):
            continue
        pairs = [(sums[place, model], sums[place, TUNED]) for sums in own.values()]
        each = [_ratio(tuned) - _ratio(other) for other, tuned in pairs]
        low, high = two_level_difference(pairs, worlds, samples=SAMPLES) or (None, None)
        row |= {"difference": math.fsum(each) / len(each), "low": low, "high": high}
        differences.append(row)
    clear = clear_of_zero(differences)
    return means, [row | {"clear": int(c)} for row, c in zip(differences, clear, strict=True)]


def headline(means: Sequence[Row], differences: Sequence[Row]) -> str:
    """The means, and below them the differences, a row a method; bold: clear by Holm's rule."""
    models = list(dict.fromkeys(str(row["method"]) for row in means))
    models.sort(key=lambda model: (not model.startswith("sft"), model == TUNED))
    titles = {model: model_title(model) for model in models} | {TUNED: "preference training"}
    value = {(_place(row), row["method"]): row for row in means}
    change = {(_place(row), row["method"]): row for row in differences}
    heads = [name for name, _ in MEASURES.values()]
    lines = _line("method", *heads), _line(*["---"] * (1 + len(heads)))
    text = [*lines]
    for model in models:
        rows = [value.get((place, model)) for place in MEASURES]
        text.append(_line(titles[model], *map(_mean, rows)))
    text += ["", "Preference training minus each other method:", "", *lines]
    for model in (model for model in models if model != TUNED):
        rows = [change.get((place, model)) for place in MEASURES]
        text.append(_line(titles[model], *map(_change, rows)))
    return "\n".join(text) + "\n"


def defects(rows: Sequence[Row]) -> str:
    """What each defect changes, a row a defect; bold: clear by Holm's rule."""
    places = list(dict.fromkeys(_place(row) for row in rows))
    text = [_line("defect", *(MEASURES[place][0] for place in places))]
    text.append(_line(*["---"] * (1 + len(places))))
    for defect in dict.fromkeys(str(row["defect"]) for row in rows):
        own = {_place(row): row for row in rows if row["defect"] == defect}
        text.append(_line(defect, *(_change(own.get(place)) for place in places)))
    return "\n".join(text) + "\n"


def _place(row: Row) -> Place:
    return str(row["benchmark"]), str(row["split"]), str(row["metric"])


def _mean(row: Row | None) -> str:
    return _shown(row, "mean", "") if row else "-"


def _change(row: Row | None) -> str:
    if not row:
        return "-"
    low, high = _shown(row, "low", "+"), _shown(row, "high", "+")
    bold = "**" if row["clear"] else ""
    return f"{bold}{_shown(row, 'difference', '+')}{bold} [{low}, {high}]"


def _shown(row: Row, name: str, sign: str) -> str:
    number = float(row[name] or 0) * MEASURES[_place(row)][1]
    return format(number, f"{sign}.{3 if row['metric'] == 'drift' else 2}f")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(sums: np.ndarray) -> float:
    over, under = sums.sum(axis=0)
    return float(over / under)


def _write(name: str, rows: Sequence[Row]) -> None:
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        (TABLES / f"{name}.csv").write_text(text.getvalue(), encoding="utf-8")
