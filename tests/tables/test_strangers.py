"""Text of strangers in tables: whatever a name holds, no format runs, loads or breaks it."""

import csv
import io

import pytest

from hadpo.figures import Figure
from hadpo.records import BadInput
from hadpo.tables._table import Column, Table, csv_rows
from hadpo.text import csv_cell

ODD = "<img src=x onerror=alert(1)>|a\n[b](javascript:c) ![d](http://e) $\\x{}_%&#~^ <3 < 4"


def table():
    columns = [Column(ODD, lambda row: row["name"]), Column("n", lambda row: row["n"])]
    return Table(
        name="odd",
        caption=ODD,
        columns=columns,
        rows=[{"name": ODD, "n": 1}],
        notes=(ODD,),
        values=("=n", "name"),
    )


def test_markdown_has_no_tag_no_link_and_whole_rows():
    text = table().to_markdown()
    assert "<img" not in text and "](" not in text and "<3 < 4" in text
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert len(body) == 3
    assert {line.replace("\\|", "").count("|") for line in body} == {3}


def test_html_escapes_headings_captions_cells_and_notes():
    text = table().to_html()
    assert "<img" not in text and text.count("&lt;img") == 4


def test_latex_escapes_headings_captions_cells_and_notes():
    text = table().to_latex()
    assert text.count(r"\$") == 4 and text.count(r"\%") == 4 and text.count(r"\#") == 4
    assert "javascript:c" in text and "[b](" in text


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("-", "-"),
        ("-0.25", "-0.25"),
        ("+7", "+7"),
        ("a=b", "a=b"),
        ("", ""),
        (-3, -3),
        (None, None),
    ],
)
def test_a_cell_that_a_spreadsheet_would_run_is_text(cell, expected):
    assert csv_cell(cell) == expected
    assert (
        next(csv.reader(io.StringIO(to_line(csv_cell(cell)))))
        == ["" if expected is None else str(expected)]
        or not expected
    )


def to_line(cell):
    file = io.StringIO()
    csv.writer(file).writerow([cell])
    return file.getvalue()


def test_tables_and_figures_write_such_cells_as_text():
    (head, row) = csv.reader(io.StringIO(table().to_csv()))
    assert head == ["'=n", "name"] and row == ["-", ODD]
    rows = list(csv.reader(io.StringIO(figure("=HYPERLINK(1)").csv())))
    assert rows == [["name", "value"], ["'=HYPERLINK(1)", "-"]]


def figure(name):
    found = Figure.__new__(Figure)
    object.__setattr__(found, "data", [{"name": name, "value": None}])
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2,3\n", ":2: expected 2 cells"),
        (b"a,b\n1\n", ":2: expected 2 cells"),
        (b"a,a\n1,2\n", ":1: a column stands twice"),
        (b'a,b\n"1,2\n', "not CSV"),
        ("a,é\n1,2\n".encode("latin-1"), "not UTF-8"),
        ("a,b\n".encode("utf-16"), "not UTF-8"),
        (b"", "the file is empty"),
        (b"<html>", "an HTML page"),
    ],
)
def test_a_committed_csv_is_read_strictly(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(BadInput, match=rf"x\.csv.*{message}"):
        csv_rows(tmp_path / "x.csv")
