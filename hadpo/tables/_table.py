"""A table: values for programs, text for readers, four file formats from pandas' own writers."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hadpo.records import BadInput
from hadpo.runs.state import flat

MINI = "mini: it teaches, it is not a result"
MISSING = "-"  # nothing was measured or published; never blank, never zero
DAGGER = "\N{DAGGER}"  # on a published cell that cannot be right
_CELLS = "text-align: left; padding: 2px 8px"
FORMATS = ("md", "html", "tex", "csv")
_LATEX = {"→": r"$\to$", "±": r"$\pm$", DAGGER: r"$\dagger$"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """One table with what a reader must know to trust it.

    Attributes:
        name: of the files that `write` makes.
        caption: one sentence that says what is compared.
        frame: plain values, fractions and counts, None where there is none; this is the CSV.
        shown: the same as a reader sees it: strings, percent, "-" where there is none.
        bold: (row, column of `shown`) of the differences whose interval does not cover zero.
        notes: footnotes, one sentence or two each.
        is_mini: rests on the synthetic world; said in the caption of every format.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    shown: pd.DataFrame
    bold: frozenset[tuple[int, str]] = frozenset()
    notes: tuple[str, ...] = ()
    is_mini: bool = False

    @property
    def full_caption(self) -> str:
        """The caption, with the mark of the synthetic world where it is due."""
        return f"{self.caption} ({MINI})" if self.is_mini else self.caption

    def to_markdown(self) -> str:
        """Caption, pipe table and footnotes."""
        cells = self.shown.map(_escape_pipe)
        for row, column in self.bold:
            cells.loc[row, column] = f"**{cells.loc[row, column]}**"
        body = cells.to_markdown(index=False, disable_numparse=True)
        notes = [f"- {_escape_pipe(note)}" for note in self.notes]
        return "\n".join([f"**{self.full_caption}**", "", body, "", *notes]).rstrip() + "\n"

    def to_html(self) -> str:
        """A styled table with every text escaped; no address outside the page."""
        style = self._style("font-weight: bold")
        style.format(escape="html")
        style.set_caption(html.escape(self.full_caption)).set_uuid(self.name)
        style.set_table_styles(
            [
                {"selector": "caption", "props": "text-align: left; font-weight: bold"},
                {"selector": "th", "props": _CELLS},
                {"selector": "td", "props": f"{_CELLS}; white-space: nowrap"},
            ]
        )
        notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in self.notes)
        below = f'<ul style="font-size: 85%">\n{notes}</ul>\n' if notes else ""
        return f'<div style="overflow-x: auto">\n{style.to_html()}</div>\n{below}'

    def to_latex(self) -> str:
        r"""A booktabs table with its footnotes below; needs `\usepackage{booktabs}`."""
        style = self._style("textbf:--rwrap;")
        style.format(escape="latex")
        heads = [_escape_latex(str(c)) for c in self.shown.columns]
        style.format_index(escape="latex", axis=1)
        body = style.to_latex(hrules=True, column_format="l" * len(heads))
        notes = [rf"\footnotesize {_escape_latex(note)}\par" for note in self.notes]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(self.full_caption)}}}",
            body.rstrip(),
            *notes,
            r"\end{table}",
        ]
        text = "\n".join(lines) + "\n"
        for sign, command in _LATEX.items():
            text = text.replace(sign, command)
        return text

    def to_csv(self) -> str:
        """The plain values: fractions, not percent; `-` where there is none."""
        return self.frame.to_csv(index=False, na_rep=MISSING, lineterminator="\n")

    def to(self, form: str) -> str:
        """The table as text in one of `FORMATS`, or `latex` or `markdown`.

        Raises:
            BadInput: another format.
        """
        writers = {
            "md": self.to_markdown,
            "markdown": self.to_markdown,
            "html": self.to_html,
            "tex": self.to_latex,
            "latex": self.to_latex,
            "csv": self.to_csv,
        }
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
        frame = self.shown.copy()
        frame.index.name = frame.columns.name = None  # else Styler prints a second header line

        def emphasise(values: pd.Series) -> list[str]:
            return [css if (row, values.name) in self.bold else "" for row in values.index]

        return frame.style.hide(axis="index").apply(emphasise, axis=0)


@dataclass(frozen=True, eq=False)
class Tables:
    """Several tables, one below the other."""

    tables: Sequence[Table]

    def _repr_html_(self) -> str:
        return "\n".join(table.to_html() for table in self.tables) or "<p>no tables</p>"


def frame_of(rows: Sequence[Mapping[str, object]], columns: Iterable[str]) -> pd.DataFrame:
    """Rows as a frame of plain objects, so that None stays None and a count stays an integer."""
    names = list(columns)
    return pd.DataFrame([[row.get(c) for c in names] for row in rows], columns=names, dtype=object)


def show_frame(rows: Sequence[Mapping[str, str]], columns: Iterable[str]) -> pd.DataFrame:
    """Rows of text as a frame of strings; an absent cell is `-`."""
    names = list(columns)
    cells = [[row.get(c) or MISSING for c in names] for row in rows]
    return pd.DataFrame(cells, columns=names, dtype=object)


def show(value: float | None, *, is_fraction: bool, signed: bool = False, digits: int = 2) -> str:
    """A value as a reader sees it: a fraction in percent, other numbers as is, `-` for None."""
    if value is None:
        return MISSING
    number = 100 * value if is_fraction else value
    text = f"{number:+.{digits}f}" if signed else f"{number:.{digits}f}"
    return text.replace("-", "").replace("+", "") if float(text) == 0 else text


def show_interval(low: float | None, high: float | None, *, is_fraction: bool) -> str:
    """A 95 % interval of a difference, with signs; `-` where there is none."""
    if low is None or high is None:
        return MISSING
    ends = (show(end, is_fraction=is_fraction, signed=True) for end in (low, high))
    return f"[{', '.join(ends)}]"


def show_change(before: int | None, after: int | None) -> str:
    """A count of the base and of the other model: one number where they are equal."""
    texts = [MISSING if count is None else str(count) for count in (before, after)]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} → {texts[1]}"


def _escape_pipe(text: object) -> str:
    return str(text).replace("|", r"\|").replace("\n", " ")


def _escape_latex(text: str) -> str:
    pairs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    pairs |= {sign: "\\" + sign for sign in "&%$#_{}"}
    return "".join(pairs.get(sign, sign) for sign in text)


# Facts without interval or benchmark, counts and settings, as a plain table for a notebook.

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
