"""The tables in sentences, as a results section says them; every number comes from a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hadpo.tables._table import MINI, Table, show, show_interval
from hadpo.tables.audit import verdict_of
from hadpo.tables.comparison import covers_zero
from hadpo.tables.measures import measure_of, model_title
from hadpo.tables.reported import ReportedRow, audit_reported


@dataclass(frozen=True, eq=False)
class Story:
    """Paragraphs and lists in Markdown; shows itself as prose in a notebook."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text


def audit_story(rows: Sequence[ReportedRow]) -> Story:
    """What the audit found among the published POPE rows."""
    lines = []
    systems = dict.fromkeys(row.system for row in rows if row.benchmark == "pope")
    for system in systems:
        own = [row for row in rows if (row.system, row.benchmark) == (system, "pope")]
        findings = audit_reported(own).findings
        unique = sum(finding.found.count == 1 for finding in findings)
        flagged = [finding for finding in findings if finding.is_flagged]
        lines.append(
            f"**{system}**: of {len(findings)} printed rows {unique} come from exactly one "
            f"confusion matrix, {len(flagged)} from none."
        )
        for finding in flagged:
            place = ", ".join((finding.row.backbone, finding.row.split, finding.row.model))
            lines.append(f"- {place}: {verdict_of(finding)}.")
        unsteady = {(f.row.backbone, f.row.model) for f in findings if f.other_recall}
        lines += [
            f"- {' '.join(key)}: recall differs between splits that share their yes questions, so "
            "this was not one deterministic system."
            for key in sorted(unsteady)
        ]
        lines.append("")
    return Story("\n".join(lines).strip() or "No published POPE rows were asked for.")


def results_story(tables: Sequence[Table]) -> Story:
    """What the comparison shows: the differences that are clear of zero first, then the others."""
    by_name = {table.name: table for table in tables}
    if "comparison" not in by_name:
        return Story("No run is compared here: published numbers and their audit only.")
    whole = by_name["comparison"]
    rows = [r for r in whole.frame.to_dict("records") if r["model"] == "merged"]
    rows = [r for r in rows if r["difference"] is not None]
    several = len({row["recipe"] for row in rows}) > 1
    clear = [r for r in rows if not covers_zero(r["low"], r["high"])]
    lines = [
        f"{len(clear)} of {len(rows)} differences between base and tuned model have a 95 % "
        f"interval that does not cover zero{f' ({MINI})' if whole.is_mini else ''}:",
        "",
        *(f"- {_sentence(row, several)}" for row in clear),
    ]
    rest = [_place(row, several) for row in rows if row not in clear]
    if rest:
        lines += ["", f"Not separable from zero: {'; '.join(rest)}."]
    controls = by_name.get("controls")
    if controls is not None:
        lines += ["", *_against_controls(controls, several)]
    return Story("\n".join(lines).rstrip())


def _sentence(row: dict[str, Any], several: bool) -> str:
    measure = measure_of(row["benchmark"], row["measure"])
    unit = " %" if measure.is_fraction else ""
    values = [show(row[name], is_fraction=measure.is_fraction) for name in ("base", "tuned")]
    ends = show_interval(row["low"], row["high"], is_fraction=measure.is_fraction)
    word = ""
    if measure.better:
        word = ", better" if (row["difference"] > 0) == (measure.better == "higher") else ", worse"
    return f"{_place(row, several)}: {values[0]} to {values[1]}{unit} {ends}{word}, n {row['n']}"


def _place(row: dict[str, Any], several: bool) -> str:
    label = measure_of(row["benchmark"], row["measure"]).label
    split = f"POPE {row['split']} " if row["benchmark"] == "pope" else ""
    return f"{row['recipe']}, {split}{label}" if several else f"{split}{label}"


def _against_controls(controls: Table, several: bool) -> list[str]:
    lines = []
    rows = controls.frame.to_dict("records")
    for control in dict.fromkeys(row["against"] for row in rows):
        own = [row for row in rows if row["against"] == control]
        groups = {
            verdict: [_place(row, several) for row in own if row["verdict"] == verdict]
            for verdict in ("better", "worse", "not separable")
        }
        texts = [f"{verdict} in {', '.join(found)}" for verdict, found in groups.items() if found]
        if texts:
            title = model_title(control)
            lines += [f"Against {title}, the tuned model is {'; '.join(texts)}.", ""]
    return lines
