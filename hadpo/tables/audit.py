"""The audit of POPE tables: can the printed cells of a row come from one set of answers?

Accuracy, precision, recall, F1 and yes ratio are five views of one confusion matrix. If no
matrix prints as a row does, a cell is wrong; the other cells say which one.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from hadpo.measures import yes_no_rates
from hadpo.records import BadInput
from hadpo.tables._table import Column, Table
from hadpo.tables.measures import measure_of

# Which confusion matrices a printed row of POPE can come from; whole-number arithmetic only.

CELLS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")
Cut = Literal["truncated", "rounded"]
_MOST_DIGITS = 9  # beyond them the products leave 64 bits


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Answers by what was said and what is true."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    def printed(self, cell: str, printed: Printed, cut: Cut) -> str:
        """What a metric of this matrix looks like with the digits of `printed`."""
        over, under = yes_no_rates(**asdict(self))[cell]
        under = under or 1  # nothing said yes: a precision of 0
        scaled = over * printed.scale
        whole = scaled // under if cut == "truncated" else (2 * scaled + under) // (2 * under)
        digits = f"{whole:0{printed.decimals + 1}d}"
        if not printed.decimals:
            return digits
        return f"{digits[: -printed.decimals]}.{digits[-printed.decimals :]}"


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A printed number: `whole` of 1/`scale`, so that no digit is lost."""

    text: str
    whole: int
    decimals: int
    scale: int

    def ends(self, cut: Cut) -> tuple[int, int, int, bool]:
        """Low and high end over a common denominator, and whether the high end belongs to it.

        A digit that was rounded may have been a half that went either way.
        """
        if cut == "truncated":
            return self.whole, self.whole + 1, self.scale, False
        return 2 * self.whole - 1, 2 * self.whole + 1, 2 * self.scale, True


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """How many confusion matrices print as a row does, and the first of them."""

    count: int
    first: Matrix | None = None


def read_printed(text: str, *, is_percent: bool, where: str = "") -> Printed:
    """A number as it was printed, digit by digit.

    Raises:
        BadInput: no plain decimal number, or one with more digits than can be checked.
    """
    sign_free = text.strip()
    before, _, after = sign_free.partition(".")
    digits = before + after
    if (
        not (before and digits.isascii() and digits.isdecimal())
        or max(len(before), len(after)) > _MOST_DIGITS
    ):
        raise BadInput(f"{where}: found {text!r}, expected a number such as 86.13 or 0.8613")
    scale = 10 ** len(after) * (100 if is_percent else 1)
    return Printed(text=sign_free, whole=int(digits), decimals=len(after), scale=scale)


def matrices(
    printed: Mapping[str, Printed], *, positives: int, negatives: int, cut: Cut
) -> Matrices:
    """All confusion matrices of `positives` and `negatives` questions that print as `printed`.

    For a fixed count of true positives each cell holds the false positives to one interval, so
    nothing is searched: the intervals of all cells are intersected for all counts at once. Of the
    `CELLS`, `printed` has those that were published; `cut` says how further digits were dropped.
    """
    tp: Any = np.arange(positives + 1, dtype=np.int64)
    low, high = np.zeros_like(tp), np.full_like(tp, negatives)

    def rates(fp: int) -> dict[str, tuple[int, int]]:
        no = {"true_negatives": negatives - fp, "false_negatives": positives - tp}
        return yes_no_rates(true_positives=tp, false_positives=fp, **no)

    none, one = rates(0), rates(1)  # numerators and denominators are linear in false positives
    for name, cell in printed.items():
        floor, ceiling, scale, is_closed = cell.ends(cut)
        over, under = none[name][0], np.maximum(none[name][1], 1)
        more, wider = one[name][0] - over, np.maximum(one[name][1], 1) - under
        for start, step in (  # what is not negative if floor <= scale * rate <= ceiling
            (scale * over - floor * under, scale * more - floor * wider),
            (ceiling * under - scale * over - (not is_closed), ceiling * wider - scale * more),
        ):
            size = np.where(step, np.abs(step), 1)
            low = np.where(step > 0, np.maximum(low, -(start // size)), low)
            high = np.where(step < 0, np.minimum(high, start // size), high)
            high = np.where((step == 0) & (start < 0), -1, high)
    counts = np.maximum(high - low + 1, 0)
    found = np.flatnonzero(counts)
    if not len(found):
        return Matrices(count=0)
    hit, false = int(found[0]), int(low[found[0]])
    first = Matrix(
        true_positives=hit,
        false_positives=false,
        true_negatives=negatives - false,
        false_negatives=positives - hit,
    )
    return Matrices(count=int(counts.sum()), first=first)


def slip(printed: str, implied: str) -> str:
    """How a misprint came about, if that is plain to see; else empty."""
    if len(printed) != len(implied):
        return ""
    differ = [at for at, (one, two) in enumerate(zip(printed, implied, strict=True)) if one != two]
    if len(differ) == 1:
        return "one digit slipped"
    first, last = (differ or [0])[0], (differ or [0])[-1]
    is_swapped = last == first + 1 and printed[first : last + 1] == implied[first : last + 1][::-1]
    return "two digits changed places" if is_swapped else ""


# POPE tables as people have them: CSV or Markdown, percent or fractions, any usual heading.

_NAMES = {  # letters of a heading, without signs and units -> the metric
    **dict.fromkeys(("accuracy", "acc"), "accuracy"),
    **dict.fromkeys(("precision", "prec", "pre", "p"), "precision"),
    **dict.fromkeys(("recall", "rec", "r"), "recall"),
    **dict.fromkeys(("f1", "f1score", "f", "fscore"), "f1"),
    **dict.fromkeys(("yesratio", "yes", "yesrate", "yesshare"), "yes_ratio"),
}
_LABELS = {
    **dict.fromkeys(("backbone", "lvlm", "vlm"), "backbone"),
    **dict.fromkeys(("split", "set", "setting", "pope", "category", "type", "sampling"), "split"),
    **dict.fromkeys(("model", "method", "name", "models", "methods"), "model"),
    **dict.fromkeys(("n", "questions", "count", "samples"), "n"),
}
_ABSENT = {"", "-", "\u2013", "\u2014", "n/a", "na"}


def read_pope_table(text: str, *, where: str = "pasted table") -> list[PopeRow]:
    """The rows of a POPE table, CSV or a Markdown pipe table, whose digits are kept as printed.

    Columns are found by their headings (accuracy or Acc., F1-score, Yes (%), ...); a column whose
    values all stay within 1 holds fractions. Columns that are neither metric nor label are ignored.

    Args:
        text: the table; lines without a pipe around a Markdown table are skipped.
        where: what an error calls it.

    Raises:
        BadInput: no table, no metric column, a cell that is no number, a row given twice, or a
            column in which fractions and percents stand mixed.
    """
    rule = r"\s*\|?[\s:|-]*-{3,}[\s:|-]*\|?\s*"  # below the headings of a Markdown table
    is_markdown = any(re.fullmatch(rule, line) for line in text.splitlines())
    lines = _markdown(text) if is_markdown else _csv(text, where)
    if len(lines) < 2:
        raise BadInput(f"{where}: no table found; expected a heading and rows, CSV or Markdown")
    place, heads = f"{where}:{lines[0][0]}", lines[0][1]
    head = [re.sub(r"\(.*?\)|[^a-z0-9]", "", cell.lower()) for cell in heads]
    metrics = {at: _NAMES[key] for at, key in enumerate(head) if key in _NAMES}
    labels = {at: _LABELS[key] for at, key in enumerate(head) if key in _LABELS}
    if len(metrics) < 2:
        raise BadInput(
            f"{place}: expected at least two of {', '.join(CELLS)} as headings, "
            f"found {', '.join(heads) or 'nothing'}"
        )
    if len(set(metrics.values())) < len(metrics):
        raise BadInput(f"{place}: a metric stands in two columns: {heads}")
    for number, cells in lines[1:]:
        if len(cells) != len(head):
            raise BadInput(
                f"{where}:{number}: expected {len(head)} cells, found {len(cells)}; "
                "quote a cell with commas"
            )
    percents = {at: _is_percent(lines, at, where) for at in metrics}
    rows: list[PopeRow] = []
    seen: dict[tuple[str, ...], int] = {}
    above = {"backbone": "", "split": "", "model": ""}
    for number, cells in lines[1:]:
        place = f"{where}:{number}"
        # an empty label is that of the row above, as in tables with joined cells
        own = above | {name: cells[at] for at, name in labels.items() if cells[at]}
        first = seen.setdefault((*cells, *own.values()), number)
        if first != number:
            raise BadInput(f"{place}: the row stands in line {first} already; delete one of them")
        count = _count(own.pop("n", ""), f"{place}: column 'n'")
        printed = {}
        for at, name in metrics.items():
            if cells[at].lower() not in _ABSENT:
                column = f"{place}: column {heads[at]!r}"
                printed[name] = read_printed(cells[at], is_percent=percents[at], where=column)
        if printed:
            rows.append(PopeRow(printed=printed, n=count, **own))
            above = own
    return rows


def _markdown(text: str) -> list[tuple[int, list[str]]]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if "|" not in line or re.fullmatch(r"[\s|:-]+", line):
            continue
        inner = line.strip().removeprefix("|")
        inner = inner.removesuffix("|") if not inner.endswith(r"\|") else inner
        found.append((number, [_plain(cell) for cell in re.split(r"(?<!\\)\|", inner)]))
    return found


def _csv(text: str, where: str) -> list[tuple[int, list[str]]]:
    first = text.lstrip("\ufeff\n ").partition("\n")[0]
    sign = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff")), delimiter=sign)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
        return [(number, [_plain(cell) for cell in row]) for number, row in rows]
    except csv.Error as error:
        raise BadInput(f"{where}:{reader.line_num}: not CSV ({error})") from error


def _plain(cell: str) -> str:
    return re.sub(r"[*`%†]|<[^>]*>|\\(?=\|)", "", cell).strip()


def _is_percent(lines: Sequence[tuple[int, list[str]]], at: int, where: str) -> bool:
    """Whether a column is in percent; a column with both is refused, with the odd line."""
    texts = [(number, cells[at]) for number, cells in lines[1:]]
    numbers = [(line, float(x)) for line, x in texts if re.fullmatch(r"[0-9]+(\.[0-9]+)?", x)]
    above = [line for line, value in numbers if value > 1]
    within = [(line, value) for line, value in numbers if 0 < value <= 1]
    if above and within:
        line, value = within[0]
        raise BadInput(
            f"{where}:{line}: column {lines[0][1][at]!r}: found {value:g} among percents; a "
            "fraction where a percent is due? write the whole column in one unit"
        )
    return bool(above)


def _count(text: str, where: str) -> int | None:
    if text.lower() in _ABSENT:
        return None
    if not text.replace(",", "").isdigit():
        raise BadInput(f"{where}: found {text!r}, expected a number of questions")
    return int(text.replace(",", ""))


POSITIVES = 1500  # POPE on COCO: 500 images, three questions each whose answer is yes


@dataclass(frozen=True, kw_only=True)
class PopeRow:
    """One printed row of a POPE table; `n` is None if it was not published."""

    backbone: str
    split: str
    model: str
    printed: Mapping[str, Printed]
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A set of cells that cannot stand, and what the cells that are left imply for them."""

    cells: tuple[str, ...]
    implied: tuple[str, ...]  # empty if the other cells have several matrices
    matrix: Matrix | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the audit says of one row: `wrong` is empty if a matrix fits."""

    row: PopeRow
    fitting: Matrices
    wrong: tuple[Wrong, ...] = ()
    other_recall: bool = False  # the same model has another recall in another split

    @property
    def is_flagged(self) -> bool:
        """Whether no confusion matrix prints as this row does."""
        return not self.fitting.count

    @property
    def cells(self) -> frozenset[str]:
        """The cells that cannot all be right."""
        return frozenset(cell for wrong in self.wrong for cell in wrong.cells)

    @property
    def matrix(self) -> Matrix | None:
        """The one matrix of the row, of the right cells where one is wrong; None if not unique."""
        if self.fitting.count == 1:
            return self.fitting.first
        return self.wrong[0].matrix if len(self.wrong) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings of a whole table, in its order, and how its digits were cut."""

    findings: tuple[Finding, ...]
    cut: Cut
    positives: int
    n: int


def audit(
    rows: Sequence[PopeRow], *, positives: int = POSITIVES, n: int = 3000, cut: Cut | None = None
) -> Audit:
    """Reconstruct the confusion matrix of every row; flag what no matrix can explain.

    Args:
        rows: printed rows; cells that were not published are simply not there.
        positives: questions whose answer is yes, the same in every split.
        n: all questions of a split, for rows that do not say it themselves.
        cut: how the digits were dropped; None: as explains more rows, of equals truncation.

    Raises:
        BadInput: no rows, or a row whose questions are fewer than the positives.
    """
    if not rows:
        raise BadInput("nothing to audit: the table has no row with a POPE metric")
    for row in rows:
        if not 0 < positives < (row.n or n):
            raise BadInput(
                f"audit of {_name(row)}: {positives} questions with the answer yes of {row.n or n} "
                "in all; give the numbers that the table was measured with"
            )
    cuts: tuple[Cut, ...] = (cut,) if cut else ("truncated", "rounded")
    tries = {
        each: [_fitting(row, row.printed, positives, n, each) for row in rows] for each in cuts
    }
    best = max(cuts, key=lambda each: sum(found.count > 0 for found in tries[each]))
    unsteady = _other_recall(rows)
    findings = tuple(
        Finding(
            row=row,
            fitting=found,
            wrong=() if found.count else _wrong(row, positives, n, best),
            other_recall=(row.backbone, row.model) in unsteady,
        )
        for row, found in zip(rows, tries[best], strict=True)
    )
    return Audit(findings=findings, cut=best, positives=positives, n=n)


def audit_table(found: Audit, *, name: str = "audit", caption: str = "") -> Table:
    """The audit as a table: a matrix for each row, and a verdict; flagged verdicts are bold."""
    rows = []
    for finding in found.findings:
        row, matrix = finding.row, finding.matrix
        rows.append(
            {"backbone": row.backbone, "split": row.split, "model": row.model}
            | {count: getattr(matrix, count) if matrix else None for count in COUNTS}
            | {"n": row.n or found.n, "matrices": finding.fitting.count}
            | {"is_flagged": finding.is_flagged, "wrong_cells": ", ".join(sorted(finding.cells))}
            | {"other_recall": finding.other_recall, "verdict": verdict_of(finding)}
        )
    labels = [c for c in ("backbone", "split", "model") if any(row[c] for row in rows)]
    return Table(
        name=name,
        caption=caption or "Which confusion matrix each printed row of POPE comes from",
        rows=rows,
        columns=[
            *(Column(label, label) for label in labels),
            *(Column(*pair) for pair in zip(("TP", "FP", "TN", "FN"), COUNTS, strict=True)),
            Column("matrices", "matrices"),
            Column("verdict", "verdict", is_bold=lambda row: row["is_flagged"]),
        ],
        values=(
            *(*labels, "n", *COUNTS, "matrices"),
            *("is_flagged", "wrong_cells", "other_recall", "verdict"),
        ),
        notes=_notes(found),
    )


def verdict_of(finding: Finding) -> str:
    """The audit's word on one row."""
    count = finding.fitting.count
    text = f"{count} matrices fit" if count > 1 else "fits"
    if finding.is_flagged:
        texts = (" and ".join(_said(finding.row, wrong)) for wrong in finding.wrong)
        text = f"no matrix fits: {'; or '.join(texts) or 'no two cells agree'}"
    return f"{text}; recall differs between the splits" if finding.other_recall else text


def _said(row: PopeRow, wrong: Wrong) -> Iterator[str]:
    """Each cell of a set as it is printed, with what it should be if that is known."""
    for cell, true in itertools.zip_longest(wrong.cells, wrong.implied):
        text = row.printed[cell].text
        said = f"{measure_of('pope', cell).label} {text}"
        if true:
            how = slip(text, true)
            said += f", the other cells give {true}" + f" ({how})" * bool(how)
        yield said


def _fitting(
    row: PopeRow, printed: Mapping[str, Printed], positives: int, n: int, cut: Cut
) -> Matrices:
    return matrices(printed, positives=positives, negatives=(row.n or n) - positives, cut=cut)


def _wrong(row: PopeRow, positives: int, n: int, cut: Cut) -> tuple[Wrong, ...]:
    """Of a row that no matrix fits: the smallest sets of cells without which one fits the rest.

    At least two cells always remain: one cell alone has a matrix for almost any number.
    """
    for size in range(1, len(row.printed) - 1):
        found = []
        for cells in itertools.combinations(row.printed, size):
            rest = {name: cell for name, cell in row.printed.items() if name not in cells}
            fitting = _fitting(row, rest, positives, n, cut)
            only = fitting.first if fitting.count == 1 else None
            implied = tuple(only.printed(c, row.printed[c], cut) for c in cells) if only else ()
            if fitting.count:
                found.append(Wrong(cells=cells, implied=implied, matrix=only))
        if found:
            return tuple(found)
    return ()


def _other_recall(rows: Sequence[PopeRow]) -> set[tuple[str, str]]:
    """Models whose printed recalls cannot be one number; those of one split only say nothing."""
    found: dict[tuple[str, str], list[tuple[Fraction, Fraction]]] = {}
    for row in rows:
        recall = row.printed.get("recall")
        if recall is not None and row.split:
            ends = Fraction(recall.whole, recall.scale), Fraction(recall.whole + 1, recall.scale)
            found.setdefault((row.backbone, row.model), []).append(ends)
    return {
        key for key, ends in found.items() if max(e[0] for e in ends) >= min(e[1] for e in ends)
    }


def _notes(found: Audit) -> tuple[str, ...]:
    flagged = [f for f in found.findings if f.is_flagged]
    unique = sum(f.fitting.count == 1 for f in found.findings)
    notes = [
        f"{len(found.findings)} rows: {unique} come from exactly one confusion matrix, "
        f"{len(found.findings) - unique - len(flagged)} from several, {len(flagged)} from none.",
        f"Digits are read as {found.cut}; {found.positives} questions have the answer yes. A count "
        "of a flagged row is that of the cells that agree.",
    ]
    for finding in flagged:
        notes.append(f"{_name(finding.row)}: {verdict_of(finding)}.")
    for backbone, model in dict.fromkeys(
        (f.row.backbone, f.row.model) for f in found.findings if f.other_recall
    ):
        own = [f.row for f in found.findings if (f.row.backbone, f.row.model) == (backbone, model)]
        texts = ", ".join(
            f"{r.split} {r.printed['recall'].text}" for r in own if "recall" in r.printed
        )
        notes.append(
            f"{' '.join(part for part in (backbone, model) if part)}: recall differs between the "
            f"splits ({texts}), although POPE asks the same questions whose answer is yes in each: "
            "these were not one deterministic system."
        )
    return tuple(notes)


def _name(row: PopeRow) -> str:
    text = ", ".join(part for part in (row.backbone, row.split, row.model) if part)
    return text or "the row"
