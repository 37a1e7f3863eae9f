"""Published numbers: `papers_results/reported/<system>_<benchmark>.csv`, checked line by line."""

import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo.config import ROOT
from hadpo.plugins import choices
from hadpo.records import BadInput
from hadpo.tables._table import DAGGER, MISSING, Column, Table, csv_rows
from hadpo.tables.audit import CELLS, Audit, PopeRow, audit, audit_table, read_printed

REPORTED = ROOT / "papers_results" / "reported"
FACTS = ("backbone", "split", "model", "unit", "n", "table", "source", "date", "note")
_LIMITS = {"percent": 100.0, "fraction": 1.0, "points": math.inf}


@dataclass(frozen=True, kw_only=True)
class ReportedRow:
    """One published row; `values` are fractions (or points), `printed` the digits as published."""

    system: str
    benchmark: str
    backbone: str
    split: str
    model: str  # "base", or the method's name
    unit: str
    n: int | None
    values: Mapping[str, float | None]
    printed: Mapping[str, str]
    table: str
    source: str
    date: str
    note: str

    def shown(self, name: str) -> str | None:
        """The digits as published, in percent or points; None if the metric was not."""
        value = self.values.get(name)
        if value is None:
            return None
        return f"{100 * value:g}" if self.unit == "fraction" else self.printed[name]

    @property
    def is_base(self) -> bool:
        """Whether the row is of the model before the method."""
        return self.model == "base"


def read_reported(
    systems: Sequence[str], *, backbone: str = "", folder: Path = REPORTED
) -> list[ReportedRow]:
    """All published rows of `systems`, in the order of the files, which are read by name.

    Args:
        systems: what the files' names begin with: hadpo, ...
        backbone: keep only the rows of this backbone, or of those whose names begin so; empty: all.
        folder: that holds the CSV files.

    Raises:
        BadInput: no such system or backbone, or a broken line (file, line and column are named).
    """
    known = {path.stem.partition("_")[0] for path in folder.glob("*_*.csv")}
    rows: list[ReportedRow] = []
    for system in systems:
        if system not in known:
            raise BadInput(
                f"no published numbers of {system!r} in {folder}; {choices(system, known)}"
            )
        for path in sorted(folder.glob(f"{system}_*.csv")):
            rows += _read(path)
    if not backbone:
        return rows
    own = [row for row in rows if row.backbone.startswith(backbone.lower())]
    if rows and not own:
        names = {row.backbone for row in rows}
        raise BadInput(
            f"reported_backbone: no published rows of {backbone!r}; {choices(backbone, names)}"
        )
    return own


def matching(rows: Sequence[ReportedRow], backbone: str) -> list[ReportedRow]:
    """The rows that belong beside a run of `backbone` (llava/1.5-7b, llava/mini).

    All rows if they are of one backbone; else those of the same family, if that is one backbone;
    else none, because a column can hold one number.
    """
    family = backbone.partition("/")[0]
    for own in (list(rows), [row for row in rows if family and row.backbone.startswith(family)]):
        if len({row.backbone for row in own}) == 1:
            return own
    return []


def reported_tables(rows: Sequence[ReportedRow]) -> list[Table]:
    """One table per system and benchmark, as published; disputed rows carry their note.

    POPE tables are audited: the cells that no confusion matrix explains carry a dagger, and the
    audit follows as a table of its own.
    """
    groups: dict[tuple[str, str], list[ReportedRow]] = {}
    for row in rows:
        groups.setdefault((row.system, row.benchmark), []).append(row)
    tables = []
    for (system, benchmark), group in groups.items():
        found = audit_reported(group) if benchmark == "pope" else None
        tables.append(_table(system, benchmark, group, found))
        if found is not None:
            caption = f"Audit of the POPE numbers of {system}: where each printed row comes from"
            tables.append(audit_table(found, name=f"audit_{system}_pope", caption=caption))
    return tables


def audit_reported(rows: Sequence[ReportedRow]) -> Audit:
    """The audit of published POPE rows, one finding a row, in their order."""
    printed = []
    for row in rows:
        is_percent = row.unit == "percent"
        cells = {
            name: read_printed(text, is_percent=is_percent, where=name)
            for name, text in row.printed.items()
            if name in CELLS and row.values[name] is not None
        }
        own = {name: getattr(row, name) for name in ("backbone", "split", "model", "n")}
        printed.append(PopeRow(printed=cells, **own))
    return audit(printed)


def _table(system: str, benchmark: str, rows: Sequence[ReportedRow], found: Audit | None) -> Table:
    metrics = list(rows[0].values)
    texts = dict.fromkeys(row.note for row in rows if row.note)
    letters = dict(zip(texts, string.ascii_letters, strict=False))
    wrong = [finding.cells for finding in found.findings] if found else [frozenset()] * len(rows)
    notes = [f"{letter}: {note}." for note, letter in letters.items()]
    if any(wrong):
        notes.insert(0, f"{DAGGER}: no confusion matrix explains this cell; see the audit.")
    dates = {MISSING: "date not known"}
    sources = sorted({f"{row.source} ({dates.get(row.date, row.date)})" for row in rows})
    units = " and ".join(sorted({row.unit for row in rows}))

    def printed(metric: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda row: row["printed"][metric] + f" {DAGGER}" * (metric in row["wrong"])

    return Table(
        name=f"reported_{system}_{benchmark}",
        caption=f"Published numbers of {system} on {benchmark}, {units} as printed",
        rows=[
            vars(row) | dict(row.values) | {"wrong": cells}
            for row, cells in zip(rows, wrong, strict=True)
        ],
        columns=[
            *(Column(name, name) for name in ("backbone", "split", "model")),
            *(Column(metric, printed(metric)) for metric in metrics),
            Column("n", "n"),
            Column("note", lambda row: letters.get(row["note"])),
        ],
        values=["backbone", "split", "model", *metrics, *FACTS[4:]],
        notes=(*notes, f"Source: {'; '.join(sources)}."),
    )


def _read(path: Path) -> Iterator[ReportedRow]:
    system, _, benchmark = path.stem.partition("_")
    seen: dict[tuple[str, str, str], str] = {}
    header, rows = csv_rows(path)
    missing = [name for name in FACTS if name not in header]
    metrics = [name for name in header if name not in FACTS]
    if missing or not metrics:
        wanted = ", ".join(missing) or "at least one metric"
        raise BadInput(
            f"{path}:1: missing column {wanted} (found {', '.join(header) or 'nothing'}); "
            "papers_results/README.md has the schema"
        )
    for where, cells in rows:
        row = _parse(cells, metrics, where=where, system=system, benchmark=benchmark)
        key = (row.backbone, row.split, row.model)
        if key in seen:
            raise BadInput(f"{where}: the row {', '.join(key)} stands in line {seen[key]} already")
        seen[key] = where.rpartition(":")[2]
        yield row


def _parse(
    cells: Mapping[str, str], metrics: Sequence[str], *, where: str, system: str, benchmark: str
) -> ReportedRow:
    for name in ("backbone", "split", "model", "source"):
        if not cells[name].strip():
            raise BadInput(f"{where}: column {name!r} is empty")
    unit = cells["unit"]
    if unit not in _LIMITS:
        raise BadInput(f"{where}: column 'unit': found {unit!r}; {choices(unit, _LIMITS)}")
    found = {name: _number(cells[name], where=f"{where}: column {name!r}") for name in metrics}
    for name, value in found.items():
        if value is not None and not 0 <= value <= _LIMITS[unit]:
            hint = "a percent where a fraction is due? " if unit == "fraction" and value > 1 else ""
            raise BadInput(
                f"{where}: column {name!r}: found {value:g}, expected 0 to {_LIMITS[unit]:g} "
                f"(unit {unit}); {hint}fix the value or the unit"
            )
    known = [value for value in found.values() if value is not None]
    if unit == "percent" and known and 0 < max(known) <= 1:
        raise BadInput(
            f"{where}: column {metrics[0]!r}: no value is above 1 (unit percent); "
            "a fraction where a percent is due? fix the values or the unit"
        )
    count = _number(cells["n"], where=f"{where}: column 'n'")
    scale = 100 if unit == "percent" else 1
    return ReportedRow(
        system=system,
        benchmark=benchmark,
        n=None if count is None else int(count),
        values={name: None if value is None else value / scale for name, value in found.items()},
        printed={name: cells[name].strip() for name in metrics},
        **{name: cells[name] for name in FACTS if name != "n"},
    )


def _number(text: str, *, where: str) -> float | None:
    if text.strip() == MISSING:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{where}: found {text!r}, expected a number, or - if nothing was published")
    return value
