"""The audit of POPE tables: can the printed cells of a row come from one set of answers?

Accuracy, precision, recall, F1 and yes ratio are five views of one confusion matrix. If no
matrix prints as a row does, a cell is wrong; the other cells say which one.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Literal

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

    def fraction(self, cell: str) -> tuple[int, int]:
        """Numerator and denominator of a metric; nothing said yes gives a precision of 0."""
        over, under = yes_no_rates(**asdict(self))[cell]
        return over, under or 1

    def printed(self, cell: str, printed: Printed, cut: Cut) -> str:
        """What a metric of this matrix looks like with the digits of `printed`."""
        over, under = self.fraction(cell)
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
    first: Matrix | None
    true_positives: tuple[int, int] | None = None  # fewest and most, over all of them


def read_printed(text: str, *, is_percent: bool, where: str = "") -> Printed:
    """A number as it was printed, digit by digit.

    Raises:
        BadInput: no plain decimal number, or one with more digits than can be checked.
    """
    sign_free = text.strip()
    before, _, after = sign_free.partition(".")
    digits = before + after
    if not (digits.isdecimal() and before) or max(len(before), len(after)) > _MOST_DIGITS:
        raise BadInput(f"{where}: found {text!r}, expected a number such as 86.13 or 0.8613")
    scale = 10 ** len(after) * (100 if is_percent else 1)
    return Printed(text=sign_free, whole=int(digits), decimals=len(after), scale=scale)


def matrices(
    printed: Mapping[str, Printed], *, positives: int, negatives: int, cut: Cut
) -> Matrices:
    """All confusion matrices of `positives` and `negatives` questions that print as `printed`.

    For a fixed count of true positives each cell holds the false positives to one interval, so
    nothing is searched: the intervals of all cells are intersected for all counts at once.

    Args:
        printed: cells by name, any of `CELLS`; those that were not published are left out.
        positives: questions whose answer is yes.
        negatives: questions whose answer is no.
        cut: how the digits after the last printed one were dropped.
    """
    tp = np.arange(positives + 1, dtype=np.int64)
    low, high = np.zeros_like(tp), np.full_like(tp, negatives)
    for name, cell in printed.items():
        least, most = _BOUNDS[name](tp, positives, negatives, cell.ends(cut))
        low, high = np.maximum(low, least), np.minimum(high, most)
    counts = np.maximum(high - low + 1, 0)
    found = np.flatnonzero(counts)
    if not len(found):
        return Matrices(count=0, first=None)
    hit, false = int(found[0]), int(low[found[0]])
    first = Matrix(
        true_positives=hit,
        false_positives=false,
        true_negatives=negatives - false,
        false_negatives=positives - hit,
    )
    return Matrices(count=int(counts.sum()), first=first, true_positives=(hit, int(tp[found[-1]])))


def suspects(
    printed: Mapping[str, Printed], *, positives: int, negatives: int, cut: Cut
) -> list[tuple[tuple[str, ...], Matrices]]:
    """Of a row that no matrix fits: the smallest sets of cells without which one fits the rest.

    At least two cells always remain: one cell alone has a matrix for almost any number.
    """
    for size in range(1, len(printed) - 1):
        found = []
        for left_out in itertools.combinations(printed, size):
            rest = {name: cell for name, cell in printed.items() if name not in left_out}
            fitting = matrices(rest, positives=positives, negatives=negatives, cut=cut)
            if fitting.count:
                found.append((left_out, fitting))
        if found:
            return found
    return []


Ends = tuple[int, int, int, bool]
Span = tuple[np.ndarray, np.ndarray]
_FEW, _MANY = -(2**40), 2**40


def _at_least(tp: np.ndarray, other: np.ndarray | int, under: int, ends: Ends) -> Span:
    """Sums `s` with low <= s / under <= high, as an interval of `s - other`."""
    low, high, scale, is_closed = ends
    least = -(-low * under // scale)
    most = high * under // scale if is_closed else -(-high * under // scale) - 1
    return least - other + 0 * tp, most - other + 0 * tp


def _accuracy(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    least, most = _at_least(tp, tp + negatives, positives + negatives, ends)  # of minus fp
    return -most, -least


def _yes_ratio(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    return _at_least(tp, tp, positives + negatives, ends)


def _recall(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    least, most = _at_least(tp, 0, positives, ends)
    fits = (least <= tp) & (tp <= most)
    return np.where(fits, 0, _MANY), np.where(fits, negatives, _FEW)


def _precision(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    return _share(tp, tp, 1, ends)


def _f1(tp: np.ndarray, positives: int, negatives: int, ends: Ends) -> Span:
    return _share(tp, tp + positives, 2, ends)


def _share(tp: np.ndarray, other: np.ndarray, times: int, ends: Ends) -> Span:
    """False positives for which `times` tp / (fp + other) lies between the ends."""
    low, high, scale, is_closed = ends
    over = times * scale * tp
    most = over // low - other if low > 0 else np.full_like(tp, _MANY)
    least = -(-over // high) - other if is_closed else over // high - other + 1
    zero = low <= 0  # no true positive: the share is 0, and that fits or it does not
    least = np.where(tp == 0, 0 if zero else _MANY, least)
    return least, np.where(tp == 0, _MANY if zero else _FEW, most)


_BOUNDS = {
    "accuracy": _accuracy,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "yes_ratio": _yes_ratio,
}


def slip(printed: str, implied: str) -> str:
    """How a misprint came about, if that is plain to see; else empty."""
    if len(printed) != len(implied):
        return ""
    differ = [at for at, (one, two) in enumerate(zip(printed, implied, strict=True)) if one != two]
    if len(differ) == 1:
        return "one digit slipped"
    swapped = len(differ) == 2 and differ[1] - differ[0] == 1
    if (
        swapped
        and printed[differ[0]] == implied[differ[1]]
        and printed[differ[1]] == implied[differ[0]]
    ):
        return "two digits changed places"
    return ""


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
_ABSENT = {"", "-", "\u2013", "\u2014", "n/a", "na", "nan"}


def read_pope_table(text: str, *, where: str = "pasted table") -> list[PopeRow]:
    """The rows of a POPE table, CSV or a Markdown pipe table, whose digits are kept as printed.

    Columns are found by their headings (accuracy or Acc., F1-score, Yes (%), ...); a column whose
    values all stay within 1 holds fractions. Columns that are neither metric nor label are ignored.

    Args:
        text: the table; lines without a pipe around a Markdown table are skipped.
        where: what an error calls it.

    Raises:
        BadInput: no table, no metric column, a cell that is no number, or a column in which
            fractions and percents stand mixed.
    """
    lines = _markdown(text) if _is_markdown(text) else _csv(text, where)
    if len(lines) < 2:
        raise BadInput(f"{where}: no table found; expected a heading and rows, CSV or Markdown")
    head = [_key(cell) for cell in lines[0][1]]
    metrics = {at: _NAMES[key] for at, key in enumerate(head) if key in _NAMES}
    labels = {at: _LABELS[key] for at, key in enumerate(head) if key in _LABELS}
    if len(metrics) < 2:
        raise BadInput(
            f"{where}:{lines[0][0]}: expected at least two of {', '.join(CELLS)} as headings, "
            f"found {', '.join(lines[0][1]) or 'nothing'}"
        )
    if len(set(metrics.values())) < len(metrics):
        raise BadInput(f"{where}:{lines[0][0]}: a metric stands in two columns: {lines[0][1]}")
    for number, cells in lines[1:]:
        if len(cells) != len(head):
            raise BadInput(
                f"{where}:{number}: expected {len(head)} cells, found {len(cells)}; "
                "quote a cell with commas"
            )
    percents = {at: _is_percent(lines, at, where) for at in metrics}
    rows: list[PopeRow] = []
    for number, cells in lines[1:]:
        facts = _facts(cells, labels, rows)
        printed = {}
        for at, name in metrics.items():
            if cells[at].lower() not in _ABSENT:
                place = f"{where}:{number}: column {lines[0][1][at]!r}"
                printed[name] = read_printed(cells[at], is_percent=percents[at], where=place)
        if printed:
            count = _count(facts.pop("n", ""), f"{where}:{number}: column 'n'")
            rows.append(PopeRow(printed=printed, n=count, **facts))
    return rows


def rows_from(
    printed: Mapping[str, str], *, unit: str, backbone: str, split: str, model: str, n: int | None
) -> PopeRow:
    """One published row with its digits, as `papers_results` keeps it."""
    cells: dict[str, Printed] = {
        name: read_printed(text, is_percent=unit == "percent", where=name)
        for name, text in printed.items()
        if name in CELLS and text not in _ABSENT
    }
    return PopeRow(backbone=backbone, split=split, model=model, printed=cells, n=n)


def _is_markdown(text: str) -> bool:
    return any(re.fullmatch(r"\s*\|?[\s:|-]*-{3,}[\s:|-]*\|?\s*", x) for x in text.splitlines())


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


def _key(heading: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*?\)", "", heading.lower()))


def _is_percent(lines: Sequence[tuple[int, list[str]]], at: int, where: str) -> bool:
    """Whether a column is in percent; a column with both is refused, with the odd line."""
    texts = [(number, cells[at]) for number, cells in lines[1:]]
    numbers = [(line, float(x)) for line, x in texts if re.fullmatch(r"\d+(\.\d+)?", x)]
    above = [line for line, value in numbers if value > 1]
    within = [(line, value) for line, value in numbers if 0 < value <= 1]
    if above and within:
        line, value = within[0]
        raise BadInput(
            f"{where}:{line}: column {lines[0][1][at]!r}: found {value:g} among percents; a "
            "fraction where a percent is due? write the whole column in one unit"
        )
    return bool(above)


def _facts(
    cells: Sequence[str], labels: Mapping[int, str], rows: Sequence[PopeRow]
) -> dict[str, str]:
    """Labels of a row; an empty one is that of the row above, as in tables with joined cells."""
    facts = {"backbone": "", "split": "", "model": ""}
    for at, name in labels.items():
        above = getattr(rows[-1], name) if rows and name != "n" else ""
        facts[name] = cells[at] or above
    return facts


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
    tries = [[_fitting(row, positives, n, each) for row in rows] for each in cuts]
    explained = [sum(found.count > 0 for found in each) for each in tries]
    best = explained.index(max(explained))
    unsteady = _other_recall(rows)
    findings = tuple(
        Finding(
            row=row,
            fitting=found,
            wrong=() if found.count else _wrong(row, positives, n, cuts[best]),
            other_recall=(row.backbone, row.model) in unsteady,
        )
        for row, found in zip(rows, tries[best], strict=True)
    )
    return Audit(findings=findings, cut=cuts[best], positives=positives, n=n)


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
    if finding.is_flagged:
        return _flag(finding)
    count = finding.fitting.count
    text = f"{count} matrices fit" if count > 1 else "fits"
    return f"{text}; recall differs between the splits" if finding.other_recall else text


def _flag(finding: Finding) -> str:
    texts = []
    for wrong in finding.wrong:
        parts = []
        for cell, true in zip(wrong.cells, wrong.implied or [""] * len(wrong.cells), strict=True):
            text = finding.row.printed[cell].text
            how = slip(text, true) if true else ""
            said = f"{measure_of('pope', cell).label} {text}"
            said += f", the other cells give {true}" if true else ""
            parts.append(f"{said} ({how})" if how else said)
        texts.append(" and ".join(parts))
    text = "; or ".join(texts) or "no two cells agree"
    extra = "; recall differs between the splits" if finding.other_recall else ""
    return f"no matrix fits: {text}{extra}"


def _fitting(row: PopeRow, positives: int, n: int, cut: Cut) -> Matrices:
    return matrices(row.printed, positives=positives, negatives=(row.n or n) - positives, cut=cut)


def _wrong(row: PopeRow, positives: int, n: int, cut: Cut) -> tuple[Wrong, ...]:
    negatives = (row.n or n) - positives
    found = []
    for cells, fitting in suspects(row.printed, positives=positives, negatives=negatives, cut=cut):
        only = fitting.first if fitting.count == 1 else None
        implied = tuple(only.printed(c, row.printed[c], cut) for c in cells) if only else ()
        found.append(Wrong(cells=cells, implied=implied, matrix=only))
    return tuple(found)


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
        notes.append(f"{_name(finding.row)}: {_flag(finding)}.")
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
