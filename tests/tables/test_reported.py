import csv
import math
from pathlib import Path

import pytest

from hadpo.records import BadInput
from hadpo.tables import read_reported
from hadpo.tables._table import DAGGER
from hadpo.tables.reported import REPORTED, matching, reported_tables

METRICS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
WRONG = {  # spec of the published tables: the cells that no confusion matrix gives, as printed
    ("minigpt4-llama2-7b", "popular", "base", "f1"): ("67.72", "67.22"),
    ("instructblip-13b", "popular", "HA-DPO", "yes_ratio"): ("50.03", "50.30"),
    ("llava-1.5-7b", "popular", "HA-DPO", "f1"): ("87.81", "87.87"),
}


def pope():
    return [row for row in read_reported(["hadpo"]) if row.benchmark == "pope"]


def truncate(value: float) -> str:
    return f"{math.floor(value * 1e4 + 1e-7) / 100:.2f}"


def test_all_published_rows_are_there():
    rows = pope()
    assert len(rows) == 18
    assert {(r.backbone, r.split, r.model) for r in rows} == {
        (backbone, split, model)
        for backbone in ("minigpt4-llama2-7b", "instructblip-13b", "llava-1.5-7b")
        for split in ("random", "popular", "adversarial")
        for model in ("base", "HA-DPO")
    }
    shr = {
        (r.backbone, r.model): r.printed["hallucinated_sentence_ratio"]
        for r in read_reported(["hadpo"])
        if r.benchmark == "shr"
    }
    assert shr == {
        ("minigpt4-llama2-7b", "base"): "47.3",
        ("minigpt4-llama2-7b", "HA-DPO"): "44.4",
        ("instructblip-13b", "base"): "51.2",
        ("instructblip-13b", "HA-DPO"): "49.1",
        ("llava-1.5-7b", "base"): "36.7",
        ("llava-1.5-7b", "HA-DPO"): "34.0",
    }


def test_each_row_follows_from_one_confusion_matrix_but_for_three_cells():
    """accuracy and recall fix TP and TN (1500 yes, 1500 no); all else must follow, truncated."""
    seen = set()
    for row in pope():
        tp = math.ceil(float(row.printed["recall"]) * 15 - 1e-6)
        tn = math.ceil(float(row.printed["accuracy"]) * 30 - 1e-6) - tp
        fp, fn = 1500 - tn, 1500 - tp
        implied = {
            "accuracy": (tp + tn) / 3000,
            "precision": tp / (tp + fp),
            "recall": tp / 1500,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "yes_ratio": (tp + fp) / 3000,
        }
        for name in METRICS:
            key = (row.backbone, row.split, row.model, name)
            printed, true = row.printed[name], truncate(implied[name])
            if key in WRONG:
                assert (printed, true) == WRONG[key]
                assert true in row.note and name in row.note
                seen.add(key)
            else:
                assert printed == true, key
    assert seen == set(WRONG)


def test_values_are_fractions_and_rows_have_a_source():
    for row in read_reported(["hadpo"]):
        assert all(0 < value < 1 for value in row.values.values() if value is not None)
        assert row.source.startswith("https://") and row.date == "2023-11-28" and row.table
    row = next(r for r in pope() if r.backbone == "llava-1.5-7b" and r.split == "random")
    assert row.values["accuracy"] == pytest.approx(0.8960)


def test_backbones_are_chosen_by_name_or_family():
    assert len(read_reported(["hadpo"], backbone="LLaVA-1.5")) == 8
    assert {r.backbone for r in matching(read_reported(["hadpo"]), "llava/mini")} == {
        "llava-1.5-7b"
    }
    assert matching(read_reported(["hadpo"]), "mplug_owl/7b") == []
    with pytest.raises(
        BadInput, match=r"reported_backbone: .*'lava-1.5'.*did you mean 'llava-1.5-7b'"
    ):
        read_reported(["hadpo"], backbone="lava-1.5")
    with pytest.raises(BadInput, match=r"'hadpoo'.*did you mean 'hadpo'"):
        read_reported(["hadpoo"])


def broken(tmp_path: Path, change) -> Path:
    """The SHR file with one change, in a folder of its own."""
    with (REPORTED / "hadpo_shr.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with (tmp_path / "hadpo_shr.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def column(rows: list[list[str]], name: str) -> int:
    return rows[0].index(name)


def set_cell(line: int, name: str, value: str):
    def change(rows: list[list[str]]) -> None:
        rows[line - 1][column(rows, name)] = value

    return change


def drop_unit(rows: list[list[str]]) -> None:
    at = column(rows, "unit")
    for row in rows:
        del row[at]


def repeat_line(rows: list[list[str]]) -> None:
    rows.append(rows[1])


def fractions(rows: list[list[str]]) -> None:
    rows[2][column(rows, "hallucinated_sentence_ratio")] = "0.444"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_unit, r"hadpo_shr\.csv:1: missing column unit"),
        (set_cell(3, "hallucinated_sentence_ratio", "44,4"), r":3: column 'halluc.*found '44,4'"),
        (set_cell(3, "hallucinated_sentence_ratio", "nan"), r":3: column 'halluc.*found 'nan'"),
        (set_cell(4, "unit", "fraction"), r":4: column 'halluc.*51\.2.*percent where a fraction"),
        (set_cell(4, "unit", "percents"), r":4: column 'unit'.*did you mean 'percent'"),
        (set_cell(2, "hallucinated_sentence_ratio", "147.3"), r":2: .*147\.3, expected 0 to 100"),
        (fractions, r":3: .*a fraction where a percent is due"),
        (set_cell(5, "source", ""), r":5: column 'source' is empty"),
        (set_cell(5, "n", "many"), r":5: column 'n': found 'many'"),
        (repeat_line, r":8: .*base stands in line 2 already"),
    ],
)
def test_a_broken_file_is_named_with_line_and_column(tmp_path: Path, change, message: str):
    with pytest.raises(BadInput, match=message):
        read_reported(["hadpo"], folder=broken(tmp_path, change))


def test_a_line_with_a_cell_too_few_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match=r":3: expected 10 cells"):
        read_reported(["hadpo"], folder=broken(tmp_path, lambda rows: rows[2].pop()))


def test_tables_show_the_digits_as_printed_and_mark_the_disputed():
    tables = {table.name: table for table in reported_tables(read_reported(["hadpo"]))}
    assert list(tables) == ["reported_hadpo_pope", "audit_hadpo_pope", "reported_hadpo_shr"]
    shown = tables["reported_hadpo_pope"].shown
    assert len(shown) == 18
    assert list(shown["yes_ratio"])[:2] == ["98.66", "42.20"]  # the trailing zero stays
    marked = shown[shown["note"] != "-"]
    assert {("instructblip-13b", "popular"), ("llava-1.5-7b", "popular")} <= set(
        zip(marked["backbone"], marked["split"], strict=True)
    )
    text = tables["reported_hadpo_pope"].to_markdown()
    assert "87.87" in text and "no confusion matrix explains this cell" in text
    assert [cell for cell in [*shown["f1"], *shown["yes_ratio"]] if DAGGER in cell] == [
        f"67.72 {DAGGER}",
        f"87.81 {DAGGER}",
        f"50.03 {DAGGER}",
    ]
    assert r"$\dagger$" in tables["reported_hadpo_pope"].to_latex()


def test_gavie_holds_eight_models_as_published():
    rows = [row for row in read_reported(["lrv"]) if row.benchmark == "gavie"]
    assert {r.backbone: (r.printed["accuracy"], r.printed["relevancy"]) for r in rows} == {
        "llava-1.0-7b": ("4.36", "6.11"),
        "llava-1.5-7b": ("6.42", "8.20"),
        "minigpt4-v1-7b": ("4.14", "5.81"),
        "minigpt4-v2-7b": ("6.01", "8.10"),
        "mplug-owl-7b": ("4.84", "6.35"),
        "instructblip-7b": ("5.93", "7.34"),
        "mmgpt-7b": ("0.91", "1.79"),
        "lrv-7b": ("6.58", "8.46"),
    }
    assert "V1 or V2" in next(r.note for r in rows if r.model == "LRV-Instruction")


def test_contested_claims_carry_both_sides():
    [claim] = [row for row in read_reported(["lrv"]) if row.benchmark == "mme"]
    assert (claim.printed["perception"], claim.values["perception"]) == ("1299.78", 1299.78)
    assert "contested" in claim.note
    users = read_reported(["lrv-users"])
    measured = [row.values["perception"] for row in users if row.benchmark == "mme"]
    assert measured == [600, 700, pytest.approx(1084.41, abs=0.01)]
    accuracy = {(r.split, r.model): r.values["accuracy"] for r in users if r.benchmark == "pope"}
    for split in ("random", "popular", "adversarial"):  # worse than its own base, everywhere
        assert accuracy[split, "LRV-V1"] < accuracy[split, "base"]
