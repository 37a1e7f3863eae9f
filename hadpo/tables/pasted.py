"""POPE tables as people have them: CSV or Markdown, percent or fractions, any usual heading."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

from hadpo.records import BadInput
from hadpo.tables.audit import PopeRow
from hadpo.tables.matrices import CELLS, Printed, read_printed

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


def read_pasted(text: str, *, where: str = "pasted table") -> list[PopeRow]:
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
    lines = _markdown(text) if _is_markdown(text) else _csv(text)
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


def _csv(text: str) -> list[tuple[int, list[str]]]:
    first = text.lstrip("\ufeff\n ").partition("\n")[0]
    sign = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff")), delimiter=sign)
    return [
        (reader.line_num, [_plain(c) for c in row]) for row in reader if any(c.strip() for c in row)
    ]


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
