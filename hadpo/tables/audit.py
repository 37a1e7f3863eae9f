"""The audit of POPE tables: can the printed cells of a row come from one set of answers?

Accuracy, precision, recall, F1 and yes ratio are five views of one confusion matrix. Where no
matrix prints as a row does, a cell is wrong; which one, the other cells tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hadpo.records import BadInput
from hadpo.tables._table import Table, frame_of, show_frame
from hadpo.tables.matrices import (
    COUNTS,
    Cut,
    Matrices,
    Matrix,
    Printed,
    matrices,
    slip,
    suspects,
)
from hadpo.tables.measures import measure_of

POSITIVES = 1500  # POPE on COCO: 500 images, three questions each whose answer is yes


@dataclass(frozen=True, kw_only=True)
class PopeRow:
    """One printed row of a POPE table; `n` is None where it was not published."""

    backbone: str
    split: str
    model: str
    printed: Mapping[str, Printed]
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A set of cells that cannot stand, and what the cells that are left imply for them."""

    cells: tuple[str, ...]
    implied: tuple[str, ...]  # empty where the cells that are left have several matrices
    matrix: Matrix | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the audit says of one row: `wrong` is empty where a matrix fits."""

    row: PopeRow
    found: Matrices
    wrong: tuple[Wrong, ...] = ()
    other_recall: bool = False  # the same model has another recall in another split

    @property
    def is_flagged(self) -> bool:
        """Whether no confusion matrix prints as this row does."""
        return not self.found.count

    @property
    def cells(self) -> frozenset[str]:
        """The cells that cannot all be right."""
        return frozenset(cell for wrong in self.wrong for cell in wrong.cells)

    @property
    def matrix(self) -> Matrix | None:
        """The one matrix of the row, of the right cells where one is wrong; None if not unique."""
        if self.found.count == 1:
            return self.found.first
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
            found=found,
            wrong=() if found.count else _wrong(row, positives, n, cuts[best]),
            other_recall=(row.backbone, row.model) in unsteady,
        )
        for row, found in zip(rows, tries[best], strict=True)
    )
    return Audit(findings=findings, cut=cuts[best], positives=positives, n=n)


def audit_table(found: Audit, *, name: str = "audit", caption: str = "") -> Table:
    """The audit as a table: a matrix for each row, and a verdict; flagged verdicts are bold."""
    values, cells, bold = [], [], []
    for at, finding in enumerate(found.findings):
        row, matrix = finding.row, finding.matrix
        facts = {"backbone": row.backbone, "split": row.split, "model": row.model}
        counts = {c: getattr(matrix, c) if matrix else None for c in COUNTS}
        verdict = verdict_of(finding)
        values.append(
            facts
            | counts
            | {"n": row.n or found.n, "matrices": finding.found.count, "verdict": verdict}
            | {"is_flagged": finding.is_flagged, "wrong_cells": ", ".join(sorted(finding.cells))}
            | {"other_recall": finding.other_recall}
        )
        texts = {key: value for key, value in facts.items() if value}
        shown = zip(("TP", "FP", "TN", "FN"), counts.values(), strict=True)
        texts |= {head: str(value) for head, value in shown if value is not None}
        cells.append(texts | {"matrices": str(finding.found.count), "verdict": verdict})
        if finding.is_flagged:
            bold.append((at, "verdict"))
    labels = [c for c in ("backbone", "split", "model") if any(v[c] for v in values)]
    more = ("n", *COUNTS, "matrices", "is_flagged", "wrong_cells", "other_recall", "verdict")
    return Table(
        name=name,
        caption=caption or "Which confusion matrix each printed row of POPE comes from",
        frame=frame_of(values, (*labels, *more)),
        shown=show_frame(cells, [*labels, "TP", "FP", "TN", "FN", "matrices", "verdict"]),
        bold=frozenset(bold),
        notes=_notes(found),
    )


def verdict_of(finding: Finding) -> str:
    """The audit's word on one row."""
    if finding.is_flagged:
        return _flag(finding)
    count = finding.found.count
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
    unique = sum(f.found.count == 1 for f in found.findings)
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
