"""Ablations that are committed: one method's parts taken away, several seeds each, in a table.

A folder of papers_results/reproduced may hold `ablation.csv`, one value a line: backbone, training,
seed (empty: the base, which has none), metric, unit (fraction or number), value, n, n_unreadable.
Unlike the other tables these are not made from evaluated runs, whose answers would be too many to
keep; the metrics of each run lie beside the file.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from hadpo.records import BadInput
from hadpo.tables._table import MISSING, Table, Tables, frame_of, show, show_frame
from hadpo.tables.intervals import mean_interval
from hadpo.tables.results import REPRODUCED

FILE = "ablation.csv"
_COLUMNS = ("backbone", "training", "seed", "metric", "unit", "value", "n", "n_unreadable")
_UNITS = {"fraction": " %", "number": ""}  # how a metric's name goes on
_Row = Mapping[str, str]


def committed_ablations(folder: Path = REPRODUCED) -> Tables:
    """One table a backbone of every `ablation.csv` below `folder`, in order of the names.

    Raises:
        BadInput: a file with other columns, or a value that is no number.
    """
    return Tables([t for path in sorted(folder.glob(f"*/{FILE}")) for t in ablation_tables(path)])


def ablation_tables(path: Path) -> list[Table]:
    """The tables of one file: a metric a line, a training a column.

    Raises:
        BadInput: other columns, or a value that is no number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        found, rows = reader.fieldnames or [], list(reader)
    if tuple(found) != _COLUMNS:
        raise BadInput(
            f"{path}:1: expected the columns {', '.join(_COLUMNS)}, "
            f"found {', '.join(found) or 'nothing'}"
        )
    for number, row in enumerate(rows, 2):
        _check(row, f"{path}:{number}")
    backbones = dict.fromkeys(row["backbone"] for row in rows)
    return [_table(path, b, [row for row in rows if row["backbone"] == b]) for b in backbones]


def _table(path: Path, backbone: str, rows: Sequence[_Row]) -> Table:
    trainings = list(dict.fromkeys(row["training"] for row in rows))
    frame, shown = [], []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        of_metric = [row for row in rows if row["metric"] == metric]
        unit = of_metric[0]["unit"]
        line = {"metric": metric + _UNITS[unit], "n": _span(of_metric, "n")}
        for training in trainings:
            mine = [row for row in of_metric if row["training"] == training]
            if not mine:
                continue
            mean, _, low, high = mean_interval([float(row["value"]) for row in mine])
            frame.append(
                {"metric": metric, "unit": unit, "training": training, "seeds": len(mine)}
                | {"mean": mean, "low": low, "high": high, "n": _span(mine, "n")}
                | {"n_unreadable": _span(mine, "n_unreadable")}
            )
            line[training] = _cell(mean, low, high, is_fraction=unit == "fraction")
        line["unreadable"] = _span(of_metric, "n_unreadable")
        shown.append(line)
    seeds = len({row["seed"] for row in rows if row["seed"]})
    name = path.parent.name
    return Table(
        name=f"ablation_{name}_{'_'.join(backbone.lower().split())}",
        caption=f"{backbone}: what each training changes ({name})",
        frame=frame_of(frame, frame[0]),
        shown=show_frame(shown, ["metric", *trainings, "n", "unreadable"]),
        notes=(
            f"Mean over {seeds} training seeds and Student's t interval (95 %) of the seeds; the "
            f"base has no seed. Of so few seeds it is wide, and may end where no value can be.",
            "n and unreadable: of one run; where runs differ, the least and the most. A mean of "
            "fewer readable answers is one of other questions.",
            f"Committed in papers_results/reproduced/{name}; its README says what was run.",
        ),
        is_mini=name.startswith("mini"),
    )


def _cell(mean: float, low: float | None, high: float | None, *, is_fraction: bool) -> str:
    digits = 1 if is_fraction else 2
    texts = [show(v, is_fraction=is_fraction, digits=digits) for v in (mean, low, high)]
    return texts[0] if low is None else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _span(rows: Sequence[_Row], name: str) -> str:
    counts = sorted(int(row[name]) for row in rows)
    if not counts:
        return MISSING
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _check(row: _Row, where: str) -> None:
    if row["unit"] not in _UNITS:
        raise BadInput(f"{where}: unit {row['unit']!r}; expected {' or '.join(_UNITS)}")
    for name, kind in (("value", float), ("n", int), ("n_unreadable", int)):
        try:
            kind(row[name])
        except (TypeError, ValueError) as error:
            raise BadInput(f"{where}: {name} {row[name]!r}; expected a number") from error
