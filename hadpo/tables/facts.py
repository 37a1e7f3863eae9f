"""Facts without interval or benchmark, counts and settings, as a plain table for a notebook."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hadpo.runs.state import flat
from hadpo.tables._table import MINI

_MOST_COLUMNS = 9  # records of more fields than this stand upright, one column a record


@dataclass(frozen=True, eq=False)
class Facts:
    """Rows of texts under a heading; shows itself in full, nothing is shortened."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_mini: bool = False  # of the synthetic world: said below

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align: left'>{html.escape(x)}</th>" for x in self.heading)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align: left'>{html.escape(x)}</td>" for x in row)
            for row in self.rows
        )
        mark = f"<p><small>{html.escape(MINI)}</small></p>" if self.is_mini else ""
        return f"<table><tr>{head}</tr>{body}</table>{mark}"


def facts(
    values: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, is_mini: bool = False
) -> Facts:
    """One row a fact, or one row a record; nested names are joined with a dot.

    Args:
        values: the facts, or records.
        is_mini: they are of the synthetic world, which is said below.
    """
    if isinstance(values, Mapping):
        rows = [[name, _text(value)] for name, value in flat(values).items()]
        return Facts(["what", "value"], rows, is_mini)
    records = [flat(row) for row in values]
    names = list(dict.fromkeys(name for record in records for name in record))
    if len(names) > _MOST_COLUMNS:
        rows = [[name, *(_text(record.get(name)) for record in records)] for name in names]
        numbers = (str(number) for number in range(1, len(records) + 1))
        return Facts(["what", *numbers], rows, is_mini)
    rows = [[_text(record.get(name)) for name in names] for record in records]
    return Facts(names, rows, is_mini)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " | ".join(_text(item) for item in value)
    return str(value)
