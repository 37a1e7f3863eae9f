"""A table: rows of values, and one specification of its columns for all four file formats."""

import csv
import html
import io
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from hadpo.records import BadInput, read_text
from hadpo.runs.state import flat
from hadpo.text import csv_cell

MINI = "mini: it teaches, it is not a result"
MISSING = "-"  # nothing was measured or published; never blank, never zero
DAGGER = "\N{DAGGER}"  # on a published cell that cannot be right
_CELLS = "text-align: left; padding: 2px 8px"
_INTERVAL = re.compile(r"(\[[+-]?[\d.]+,) (?=[+-]?[\d.]+\])")  # what stands before its blank
FORMATS = ("md", "html", "tex", "csv")
_LATEX = {"→": r"$\to$", "±": r"$\pm$", DAGGER: r"$\dagger$"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column as a reader sees it, in every format but CSV.

    Attributes:
        title: the heading, without its unit.
        cell: name of the value in a row, or a function of the row; None and "" are shown as `-`.
        unit: behind the heading; values of a column in "%" are fractions.
        digits: of numbers that are not whole, after the point.
        is_bold: which rows' cells are emphasised; None: no row's.
    """

    title: str
    cell: str | Callable[[Row], Any]
    unit: str = ""
    digits: int = 2
    is_bold: Callable[[Row], bool] | None = None

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, row: Row) -> str:
        """The cell of a row."""
        value = self.cell(row) if callable(self.cell) else row.get(self.cell)
        if isinstance(value, float):
            return show(value, is_fraction=self.unit == "%", digits=self.digits)
        return MISSING if value is None else str(value) or MISSING


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """One table with what a reader must know to trust it.

    Attributes:
        name: of the files that `write` makes.
        caption: one sentence that says what is compared.
        rows: plain values by name, fractions and counts; None if nothing was measured.
        columns: what a reader sees of the rows.
        values: names of the values in the CSV, in its order.
        values_of: the rows of the CSV if they are others than those that a reader sees.
        notes: footnotes, one sentence or two each.
        is_mini: rests on the synthetic world; said in the caption of every format.
        is_wrapped: long cells are broken into lines.
    """

    name: str
    caption: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    values: Sequence[str]
    values_of: Sequence[Row] | None = None
    notes: tuple[str, ...] = ()
    is_mini: bool = False
    is_wrapped: bool = False

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The values of the CSV, as objects: None stays None, and a count an integer."""
        rows = self.rows if self.values_of is None else self.values_of
        cells = [[row.get(name) for name in self.values] for row in rows]
        return pd.DataFrame(cells, columns=list(self.values), dtype=object)

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The table as a reader sees it: strings, percent, `-` if nothing was measured."""
        cells = [[column.text(row) for column in self.columns] for row in self.rows]
        return pd.DataFrame(cells, columns=[c.heading for c in self.columns], dtype=object)

    @cached_property
    def bold(self) -> frozenset[tuple[int, str]]:
        """Number of the row and heading of the cells that are emphasised."""
        return frozenset(
            (at, column.heading)
            for column in self.columns
            for at, row in enumerate(self.rows)
            if column.is_bold is not None and column.is_bold(row)
        )

    @property
    def full_caption(self) -> str:
        """The caption, with the mark of the synthetic world if it is due."""
        return f"{self.caption} ({MINI})" if self.is_mini else self.caption

    def to_markdown(self) -> str:
        """Caption, pipe table and footnotes."""
        cells = self.shown.map(_escape_markdown).rename(columns=_escape_markdown)
        for row, column in self.bold:
            place = row, _escape_markdown(column)
            cells.loc[place] = f"**{cells.loc[place]}**"
        body = cells.to_markdown(index=False, disable_numparse=True)
        notes = [f"- {_escape_markdown(note)}" for note in self.notes]
        lines = [f"**{_escape_markdown(self.full_caption)}**", "", body, "", *notes]
        return "\n".join(lines).rstrip() + "\n"

    def to_html(self) -> str:
        """A styled table with every text escaped; no address outside the page."""
        style = self._style("font-weight: bold").set_uuid(self.name)
        style.format(_in_html).format_index(escape="html", axis=1)
        if self.is_wrapped:
            style.set_table_attributes('class="wrapped"')
        if self.full_caption:
            style.set_caption(html.escape(self.full_caption))
        cells = _CELLS + "; white-space: nowrap" * (not self.is_wrapped)
        styles = {"caption": "text-align: left; font-weight: bold", "th": _CELLS, "td": cells}
        style.set_table_styles([{"selector": k, "props": v} for k, v in styles.items()])
        notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in self.notes)
        below = f'<ul class="notes" style="font-size: 85%">\n{notes}</ul>\n' if notes else ""
        return f'<div style="overflow-x: auto">\n{style.to_html()}</div>\n{below}'

    def to_text(self, width: int = 100, *, hide: Sequence[str] = ()) -> str:
        """The table for a terminal of `width` columns; `*` for bold, the first column is wrapped.

        Args:
            width: characters of a line.
            hide: headings of columns to leave out.
        """
        heads = [name for name in self.shown.columns if name not in hide]
        rows = [
            [f"{row[name]}*" if (at, name) in self.bold else row[name] for name in heads]
            for at, row in enumerate(self.shown.to_dict("records"))
        ]
        widths = [
            max(map(len, [*head.split(), *(row[at] for row in rows)]))
            for at, head in enumerate(heads)
        ]
        rest = width - sum(widths[1:]) - 2 * len(widths[1:])
        widths[0] = max(12, min(rest, widths[0], max((len(row[0]) for row in rows), default=0)))
        lines = []
        for cells in (heads, ["-" * each for each in widths], *rows):
            parts = [textwrap.wrap(c, w) or [""] for c, w in zip(cells, widths, strict=True)]
            for line in itertools.zip_longest(*parts, fillvalue=""):
                lines.append("  ".join(map(str.ljust, line, widths)).rstrip())
        return "\n".join(lines) + "\n"

    def to_latex(self) -> str:
        r"""A booktabs table with its footnotes below; needs `\usepackage{booktabs}`."""
        style = self._style("textbf:--rwrap;")
        style.format(escape="latex").format_index(escape="latex", axis=1)
        body = style.to_latex(hrules=True, column_format="l" * len(self.columns))
        notes = [rf"\footnotesize {_escape_latex(note)}\par" for note in self.notes]
        caption = rf"\caption{{{_escape_latex(self.full_caption)}}}"
        lines = [r"\begin{table}", r"\centering", caption, body.rstrip(), *notes, r"\end{table}"]
        text = "\n".join(lines) + "\n"
        for sign, command in _LATEX.items():
            text = text.replace(sign, command)
        return text

    def to_csv(self) -> str:
        """The plain values: fractions, not percent; `-` if nothing was measured."""
        cells = self.frame.map(csv_cell).rename(columns=csv_cell)
        return cells.to_csv(index=False, na_rep=MISSING, lineterminator="\n")

    def to(self, form: str) -> str:
        """The table as text in one of `FORMATS`, or `latex` or `markdown`.

        Raises:
            BadInput: another format.
        """
        writers = {"md": self.to_markdown, "html": self.to_html, "tex": self.to_latex}
        writers |= {"csv": self.to_csv, "markdown": self.to_markdown, "latex": self.to_latex}
        if form not in writers:
            raise BadInput(f"no table format {form!r}; known: {', '.join(sorted(writers))}")
        return writers[form]()

    def write(self, folder: Path, name: str = "") -> list[Path]:
        """Write md, html, tex and csv into `folder`; the same table gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name or self.name}.{form}" for form in FORMATS]
        for path in paths:
            path.write_text(self.to(path.suffix[1:]), encoding="utf-8", newline="\n")
        return paths

    def _repr_html_(self) -> str:
        return self.to_html()

    def __str__(self) -> str:
        return self.to_markdown()

    def _style(self, css: str) -> "pd.io.formats.style.Styler":
        def emphasise(values: pd.Series) -> list[str]:
            return [css if (row, values.name) in self.bold else "" for row in values.index]

        return self.shown.style.hide(axis="index").apply(emphasise, axis=0)


@dataclass(frozen=True, eq=False)
class Tables:
    """Several tables, one below the other."""

    tables: Sequence[Table]

    def _repr_html_(self) -> str:
        return "\n".join(table.to_html() for table in self.tables) or "<p>no tables</p>"


def show(value: float | None, *, is_fraction: bool, signed: bool = False, digits: int = 2) -> str:
    """A value as a reader sees it: a fraction in percent, other numbers as is, `-` for None."""
    if value is None:
        return MISSING
    number = 100 * value if is_fraction else value
    text = f"{number:+.{digits}f}" if signed else f"{number:.{digits}f}"
    return text.replace("-", "").replace("+", "") if float(text) == 0 else text


def show_interval(low: float | None, high: float | None, *, is_fraction: bool) -> str:
    """A 95 % interval of a difference, with signs; `-` for None."""
    if low is None or high is None:
        return MISSING
    ends = (show(end, is_fraction=is_fraction, signed=True) for end in (low, high))
    return f"[{', '.join(ends)}]"


def show_change(before: object, after: object) -> str:
    """A value of the base and of the other model: one text if they are equal."""
    texts = [MISSING if value is None else str(value) for value in (before, after)]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} → {texts[1]}"


def _in_html(cell: object) -> str:
    """A cell with its text escaped; an interval stays on one line."""
    return _INTERVAL.sub(r"\1&nbsp;", html.escape(str(cell)))


def _escape_markdown(text: object) -> str:
    """A cell without what Markdown reads: bars, ends of lines, tags, links and pictures."""
    line = " ".join(str(text).replace("|", r"\|").splitlines())
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line).replace("](", r"]\(")


def csv_rows(path: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """The columns of a committed CSV file, and its rows, each with its place.

    Raises:
        BadInput: no such file, no UTF-8, empty, no CSV, a column that stands twice, or a row with
            other cells than columns.
    """
    schema = "papers_results/README.md has the schema"
    reader = csv.DictReader(io.StringIO(read_text(path, expected=schema)), strict=True)
    try:
        names, rows = list(reader.fieldnames or ()), []
        if len(set(names)) < len(names):
            raise BadInput(f"{path}:1: a column stands twice ({', '.join(names)}); {schema}")
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if None in cells or None in cells.values():
                raise BadInput(f"{where}: expected {len(names)} cells; quote a cell with commas")
            rows.append((where, cells))
    except csv.Error as error:
        raise BadInput(f"{path}:{reader.line_num}: not CSV ({error}); {schema}") from error
    return names, rows


def _escape_latex(text: str) -> str:
    pairs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    pairs |= {sign: "\\" + sign for sign in "&%$#_{}"}
    return "".join(pairs.get(sign, sign) for sign in text)


# Counts and settings, which need neither caption nor footnotes.

_MOST_COLUMNS = 9  # records of more fields than this stand upright, one column a record


def facts(values: Row | Sequence[Row]) -> Table:
    """One row a fact, or one row a record; nested names are joined with a dot."""
    if isinstance(values, Mapping):
        names, cells = ["what", "value"], [*map(list, flat(values).items())]
    else:
        records = [flat(row) for row in values]
        names = list(dict.fromkeys(name for record in records for name in record))
        cells = [[record.get(name) for name in names] for record in records]
        if len(names) > _MOST_COLUMNS:
            cells = [list(row) for row in zip(names, *cells, strict=True)]
            names = ["what", *map(str, range(1, len(records) + 1))]
    rows = [dict(zip(names, map(_text, row), strict=True)) for row in cells]
    return Table(
        name="facts",
        caption="",
        rows=rows,
        columns=[Column(name, name) for name in names],
        values=names,
        is_wrapped=True,
    )


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.6g}"
    return " | ".join(map(_text, value)) if isinstance(value, list) else str(value)
