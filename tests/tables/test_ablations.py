"""Committed ablations: three seeds become a mean and an interval, and a bad line is named."""

import math

import pytest

from hadpo.records import BadInput
from hadpo.tables import committed_ablations
from hadpo.tables._table import Tables
from hadpo.tables.ablations import ablation_tables
from hadpo.tables.results import REPRODUCED

HEAD = "backbone,training,seed,metric,unit,value,n,n_unreadable\n"
LINES = """tiny,base,,accuracy,fraction,0.5,10,0
tiny,tuned,1,accuracy,fraction,0.6,10,0
tiny,tuned,2,accuracy,fraction,0.7,10,1
tiny,tuned,3,accuracy,fraction,0.8,9,0
tiny,tuned,1,sentences,number,2.5,10,0
"""


def write(folder, text, name="mini-x"):
    (folder / name).mkdir()
    path = folder / name / "ablation.csv"
    path.write_text(text)
    return path


def test_mean_and_t_interval_of_the_seeds(tmp_path):
    write(tmp_path, HEAD + LINES)
    [table] = committed_ablations(tmp_path).tables
    half = 4.302653 * 0.1 / math.sqrt(3)  # Student's t, two degrees of freedom
    found = table.frame.set_index(["metric", "training"]).loc[("accuracy", "tuned")]
    assert [found["mean"], found["low"], found["high"]] == pytest.approx(
        [0.7, 0.7 - half, 0.7 + half]
    )
    assert table.shown.to_numpy().tolist() == [
        ["accuracy %", "50.0", "70.0 [45.2, 94.8]", "9 to 10", "0 to 1"],
        ["sentences", "-", "2.50", "10", "0"],
    ]
    assert table.is_mini and "it is not a result" in table.to_html()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("backbone,training\n", ":1: expected the columns"),
        ("", "the file is empty"),
        (HEAD + "a,b,1,c,percent,1,1,0\n", ":2: unit 'percent'"),
        (HEAD + "a,b,1,c,number,much,1,0\n", ":2: value 'much'"),
        (HEAD + "a,b,1,c,number,1\n", ":2: expected 8 cells"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, text, error):
    with pytest.raises(BadInput, match=error):
        ablation_tables(write(tmp_path, text))


def test_the_page_in_the_repository_is_the_one_that_the_code_makes():
    """Where they differ, write `committed_ablations().tables` into ablation.md as here."""
    tables = ablation_tables(REPRODUCED / "mini-lrv" / "ablation.csv")
    assert [len(table.shown) for table in tables] == [12, 12]
    assert all(table.is_mini for table in tables)
    page = (REPRODUCED / "mini-lrv" / "ablation.md").read_text(encoding="utf-8")
    assert page == "\n".join(table.to_markdown() for table in tables)


def test_no_ablation_is_no_table(tmp_path):
    assert committed_ablations(tmp_path)._repr_html_() == Tables([])._repr_html_()
