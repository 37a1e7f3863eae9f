from pathlib import Path

import pandas as pd
import pytest

from hadpo.records import BadInput
from hadpo.tables import MINI, Table
from hadpo.tables._table import Column, show, show_interval


def small(**changes) -> Table:
    facts = {
        "name": "small",
        "caption": "Shares of 5 % & more <b>",
        "rows": [
            {"name": "a|b <i> 5 % & x_1", "share": 0.123456, "n": 7},
            {"name": "none", "n": 0},
        ],
        "columns": [
            Column("Name", "name"),
            Column("Share", "share", unit="%", is_bold=lambda row: "share" in row),
            Column("n", "n"),
        ],
        "values": ("name", "share", "n"),
        "notes": ("a note with <script>, 5 % and a | b",),
    }
    return Table(**(facts | changes))


def test_markdown_has_bold_dash_and_escaped_pipes():
    text = small().to_markdown()
    assert "**12.35**" in text
    last = next(line for line in text.splitlines() if "none" in line)
    assert [cell.strip() for cell in last.strip("|").split("|")] == ["none", "-", "0"]
    assert r"a\|b" in text and "- a note" in text


def test_markdown_keeps_trailing_zeros():
    rows = [{"value": 0.512}, {"value": 0.07}]
    table = small(rows=rows, columns=[Column("Value", "value", unit="%")])
    assert "51.20" in table.to_markdown() and "7.00" in table.to_markdown()


def test_html_escapes_every_text():
    text = small().to_html()
    assert "<i>" not in text and "<script>" not in text and "more <b>" not in text
    assert "a|b &lt;i&gt; 5 % &amp; x_1" in text
    assert "Shares of 5 % &amp; more &lt;b&gt;" in text
    assert "font-weight: bold" in text.split("<table")[0]
    assert "http" not in text


def test_latex_is_booktabs_with_escapes():
    text = small().to_latex()
    for piece in (r"\toprule", r"\midrule", r"\bottomrule", r"5 \% \& x\_1", r"\textbf{12.35}"):
        assert piece in text
    assert r"Share (\%)" in text and text.count(r"\begin{tabular}{lll}") == 1
    assert r"\caption{Shares of 5 \% \& more <b>}" in text


def test_csv_holds_fractions_and_dashes():
    lines = small().to_csv().splitlines()
    assert lines[0] == "name,share,n"
    assert lines[1].endswith(",0.123456,7")
    assert lines[2] == "none,-,0"


@pytest.mark.parametrize("form", ["md", "html", "tex"])
def test_a_mini_table_says_so_in_every_format(form: str):
    assert MINI in small(is_mini=True).to(form)
    assert MINI not in small().to(form)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path):
    first = small().write(tmp_path / "one")
    second = small().write(tmp_path / "two")
    assert [p.name for p in first] == ["small.md", "small.html", "small.tex", "small.csv"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert all(p.read_bytes() and b"\r" not in p.read_bytes() for p in first)


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(BadInput, match=r"'pdf'; known: csv, html, latex"):
        small().to("pdf")


def test_numbers_are_shown_in_percent_and_never_as_minus_zero():
    assert show(0.5, is_fraction=True) == "50.00"
    assert show(-0.00001, is_fraction=True, signed=True) == "0.00"
    assert show(0.031, is_fraction=True, signed=True) == "+3.10"
    assert show(4.25, is_fraction=False, digits=1) in ("4.2", "4.3")
    assert show(None, is_fraction=True) == "-"
    assert show_interval(-0.02, 0.01, is_fraction=True) == "[-2.00, +1.00]"
    assert show_interval(None, 0.1, is_fraction=True) == "-"


def test_frames_keep_none_and_integers():
    frame = small(rows=[{"a": 1, "b": None}], values=("a", "b")).frame
    assert frame.loc[0, "a"] == 1 and frame.loc[0, "b"] is None
    assert isinstance(frame, pd.DataFrame)
