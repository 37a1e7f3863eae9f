"""Ablations that are committed: one method's parts taken away, several seeds each, in a table.

A folder of papers_results/reproduced may hold `ablation.csv`, one value a line: backbone, training,
seed (empty: the base, which has none), metric, unit (fraction or number), value, n, n_unreadable.
Unlike the other tables these are not made from evaluated runs, whose answers would be too many to
keep; the metrics of each run lie beside the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hadpo.records import BadInput
from hadpo.tables._table import Column, Table, Tables, csv_rows, show
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
    found, placed = csv_rows(path)
    if tuple(found) != _COLUMNS:
        raise BadInput(
            f"{path}:1: expected the columns {', '.join(_COLUMNS)}, "
            f"found {', '.join(found) or 'nothing'}"
        )
    for where, row in placed:
        if row["unit"] not in _UNITS:
            raise BadInput(f"{where}: unit {row['unit']!r}; expected {' or '.join(_UNITS)}")
        for name, kind in (("value", float), ("n", int), ("n_unreadable", int)):
            try:
                kind(row[name])
            except ValueError as error:
                raise BadInput(f"{where}: {name} {row[name]!r}; expected a number") from error
    rows = [row for _, row in placed]
    backbones = dict.fromkeys(row["backbone"] for row in rows)
    return [_table(path, b, [row for row in rows if row["backbone"] == b]) for b in backbones]


def _table(path: Path, backbone: str, rows: Sequence[_Row]) -> Table:
    trainings = list(dict.fromkeys(row["training"] for row in rows))
    means, shown = [], []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        of_metric = [row for row in rows if row["metric"] == metric]
        unit = of_metric[0]["unit"]
        line = {"metric": metric + _UNITS[unit], **_spans(of_metric)}
        for training in trainings:
            own = [row for row in of_metric if row["training"] == training]
            if not own:
                continue
            mean, _, low, high = mean_interval([float(row["value"]) for row in own])
            means.append(
                {"metric": metric, "unit": unit, "training": training, "seeds": len(own)}
                | {"mean": mean, "low": low, "high": high, **_spans(own)}
            )
            is_fraction = unit == "fraction"
            texts = [
                show(v, is_fraction=is_fraction, digits=1 if is_fraction else 2)
                for v in (mean, low, high)
            ]
            line[training] = texts[0] if low is None else f"{texts[0]} [{texts[1]}, {texts[2]}]"
        shown.append(line)
    seeds = len({row["seed"] for row in rows if row["seed"]})
    name = path.parent.name
    return Table(
        name=f"ablation_{name}_{'_'.join(backbone.lower().split())}",
        caption=f"{backbone}: what each training changes ({name})",
        rows=shown,
        columns=[
            *(Column(title, title) for title in ("metric", *trainings, "n")),
            Column("unreadable", "n_unreadable"),
        ],
        values=list(means[0]),
        values_of=means,
        notes=(
            f"Mean over {seeds} training seeds and Student's t interval (95 %) of the seeds; the "
            f"base has no seed. Of so few seeds it is wide, and may end where no value can be.",
            "n and unreadable: of one run; where runs differ, the least and the most. A mean of "
            "fewer readable answers is one of other questions.",
            f"Committed in papers_results/reproduced/{name}; its README says what was run.",
        ),
        is_mini=name.startswith("mini"),
    )


def _spans(rows: Sequence[_Row]) -> dict[str, str]:
    """Counts of the runs: one number, or the least and the most."""
    found = {}
    for name in ("n", "n_unreadable"):
        least, *_, most = sorted([int(row[name]) for row in rows] * 2)
        found[name] = str(least) if least == most else f"{least} to {most}"
    return found
