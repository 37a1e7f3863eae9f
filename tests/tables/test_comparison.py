import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest

from hadpo.records import BadInput, Metric, read_jsonl
from hadpo.tables import (
    MINI,
    compare_runs,
    comparison,
    overview,
    read_reported,
    read_results,
    render,
    run_index,
)
from hadpo.tables.comparison import controls
from hadpo.tables.intervals import clear_of_zero, covers_zero, two_level_difference
from hadpo.tables.measures import measure_of

TUNED = {"split": "adversarial", "measure": "accuracy", "model": "merged"}


def find(table, **wanted):
    frame = table.frame
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, f"{len(frame)} rows of {wanted}"
    return frame.iloc[0]


def test_one_run_stands_beside_the_published_numbers(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    table = comparison([result], read_reported(["hadpo"]))
    metrics = {(m.split, m.name, m.model): m for m in result.metrics.values()}
    row = find(table, **TUNED)
    assert row["base"] == metrics["adversarial", "accuracy", "base"].value
    assert row["tuned"] == metrics["adversarial", "accuracy", "merged"].value
    assert row["difference"] == pytest.approx(row["tuned"] - row["base"])
    assert row["low"] < row["difference"] < row["high"]
    assert (row["reported_base"], row["reported_tuned"]) == pytest.approx((0.7976, 0.8146))
    shr = find(table, benchmark="shr", measure="hallucinated_sentence_ratio", model="merged")
    assert shr["reported_base"] == pytest.approx(0.367)  # published without a split; we have one
    assert shr["words_base"] > shr["words_tuned"] > 0


def test_controls_have_rows_and_what_was_not_run_is_a_dash(runs_folder: Path):
    result = dataclasses.replace(read_results("run-s1", runs_folder), is_mini=False)
    table = comparison([result], read_reported(["hadpo"]))
    models = set(table.shown["Model"])
    assert {"base, cut to the same length", "finetuned on the chosen texts only"} <= models
    cut = table.shown[table.shown["Model"] == "base, cut to the same length"]
    assert set(cut["Reported base"]) == {"-"}
    assert not table.shown.isin(["", "nan", "None"]).any().any()
    lines = list(csv.reader(io.StringIO(table.to_csv())))
    assert all(cell != "" for line in lines for cell in line)


@pytest.mark.parametrize(("judge", "marked"), [("oracle", True), ("llm", False)])
def test_a_published_number_of_another_judge_is_marked(runs_folder: Path, judge, marked):
    result = dataclasses.replace(read_results("run-s1", runs_folder), is_mini=False)
    settings = result.settings | {"evaluate": result.settings["evaluate"] | {"judge": judge}}
    result = dataclasses.replace(result, settings=settings)
    table = comparison([result], read_reported(["hadpo"]))
    shr = find(table, benchmark="shr", measure="hallucinated_sentence_ratio", model="merged")
    assert shr["reported_base_printed"] == ("36.7 ‡" if marked else "36.7")
    assert find(table, **TUNED)["reported_base_printed"] == "79.76"  # nobody judges POPE
    assert (
        any(note.startswith("‡: reported with a language model") for note in table.notes) == marked
    )


def test_bold_is_where_the_interval_leaves_zero_out_for_all_rows_together(runs_folder: Path):
    table = comparison([read_results("run-s1", runs_folder)])
    clear = {i for i, is_clear in enumerate(clear_of_zero(table.rows)) if is_clear}
    alone = {i for i, r in enumerate(table.rows) if not covers_zero(r["low"], r["high"])}
    assert {row for row, _ in table.bold} == clear
    assert 0 < len(clear) < len(alone)  # some would be clear if their row were the only one
    assert clear < alone
    assert {column for _, column in table.bold} == {"Difference"}


@pytest.mark.parametrize(
    ("low", "high", "covers"),
    [
        (-1, 1, True),
        (0, 1, True),
        (-1, 0, True),
        (0.1, 1, False),
        (-1, -0.1, False),
        (None, None, True),
        (-1, -1e-17, True),
        (1e-17, 1, True),
    ],
)
def test_an_interval_covers_zero(low, high, covers):
    assert covers_zero(low, high) is covers


def test_several_runs_become_mean_deviation_and_an_interval_over_images_and_runs(runs_folder: Path):
    results = [read_results(f"run-s{seed}", runs_folder) for seed in (1, 2, 3)]
    one = find(comparison(results), **TUNED)
    each = comparison(results, by_run=True)
    rows = each.frame
    for name, value in TUNED.items():
        rows = rows[rows[name] == value]
    assert list(rows["run"]) == ["run-s1", "run-s2", "run-s3"]  # no seed is dropped
    differences = [float(d) for d in rows["difference"]]
    mean = sum(differences) / 3
    deviation = (sum((d - mean) ** 2 for d in differences) / 2) ** 0.5
    assert one["runs"] == 3
    assert (one["difference"], one["deviation"]) == pytest.approx((mean, deviation))
    key = ("pope", "adversarial", "accuracy", "base")
    pairs = [result.paired(key, "merged") for result in results]
    ends = two_level_difference(pairs, ["the same images"] * 3)
    assert one["interval"] == "two-level" and (one["low"], one["high"]) == ends
    bare = find(comparison([dataclasses.replace(r, items={}) for r in results]), **TUNED)
    half = 4.302653 * deviation / 3**0.5  # Student's t, 2 degrees of freedom
    assert bare["interval"] == "t"
    assert (bare["low"], bare["high"]) == pytest.approx((mean - half, mean + half), rel=1e-5)


def test_controls_are_beaten_only_where_the_interval_says_so(runs_folder: Path):
    table = controls([read_results("run-s1", runs_folder)])
    assert table is not None
    for (_, row), verdict in zip(table.frame.iterrows(), table.shown["Tuned is"], strict=True):
        if verdict in ("better", "worse"):
            assert row["clear"] and not covers_zero(row["low"], row["high"])
            less = row["measure"] != "accuracy" and row["measure"] != "f1"
            assert (row["difference"] < 0) == (less == (verdict == "better"))
        elif verdict == "not separable among so many rows":
            assert not row["clear"] and not covers_zero(row["low"], row["high"])
        elif verdict == "the same":
            assert row["low"] == row["high"] == 0
        elif verdict != "-":
            assert not row["clear"] and covers_zero(row["low"], row["high"])
            scale = 100 if measure_of(row["benchmark"], row["measure"]).is_fraction else 1
            half = f"{scale * (row['high'] - row['low']) / 2:.2f}"
            unit = " points" if scale == 100 else ""
            assert verdict == f"not separable below {half}{unit}"
    words = {
        verdict.partition(" below")[0].partition(" among")[0] for verdict in table.shown["Tuned is"]
    }
    assert {"better", "not separable"} <= words


def test_no_interval_where_the_models_answered_other_items(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    items = {
        key: {k: v for k, v in sums.items() if key[3] == "base" or k != "3"}
        for key, sums in result.items.items()
    }
    row = find(comparison([dataclasses.replace(result, items=items)]), **TUNED)
    assert row["low"] is None and row["difference"] is not None


def test_no_interval_where_the_items_do_not_add_up_to_the_metric(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    key = ("pope", "adversarial", "accuracy", "merged")
    metric = dataclasses.replace(result.metrics[key], value=0.5)
    row = find(
        comparison([dataclasses.replace(result, metrics={**result.metrics, key: metric})]), **TUNED
    )
    assert row["tuned"] == 0.5 and row["low"] is None


def test_a_metric_without_items_has_the_wider_unpaired_interval(runs_folder: Path):
    table = comparison([read_results("run-s1", runs_folder)])
    row = find(table, measure="object_recall", model="merged")
    assert row["interval"] == "unpaired"
    assert (row["low"], row["high"]) == pytest.approx((-0.05 - 0.05, -0.05 + 0.05))
    shown = table.shown[table.shown["Measure"].str.startswith("true objects")].iloc[0]
    assert shown["95 % interval"] == "[-10.00, 0.00] u"
    assert "u: unpaired" in table.to_markdown()


def test_the_cut_base_is_paired_though_it_was_never_generated(runs_folder: Path):
    table = controls([read_results("run-s1", runs_folder)])
    row = find(table, measure="hallucinated_sentence_ratio", against="base_cut")
    assert row["interval"] == "paired" and row["n_base"] == 100
    assert row["words_base"] == pytest.approx(35)  # seven words in each of five sentences


def test_a_metric_without_a_value_is_a_dash(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    key = ("shr", "val", "hallucinated_sentence_ratio", "merged")
    metric = dataclasses.replace(result.metrics[key], value=None, n=0)
    table = comparison([dataclasses.replace(result, metrics={**result.metrics, key: metric})])
    shown = table.shown[table.shown["Measure"].str.startswith("SHR")].iloc[0]
    assert (shown["Tuned"], shown["Difference"], shown["95 % interval"]) == ("-", "-", "-")


def test_every_table_of_a_mini_run_says_mini_and_the_notes_say_how(runs_folder: Path):
    for table in compare_runs(["run-s1", "run-s2"], runs_folder=runs_folder):
        assert (MINI in table.to_markdown()) == (not table.name.startswith(("reported", "audit")))
    text = compare_runs(["run-s1", "run-s2"], runs_folder=runs_folder)[1].to_markdown()
    for piece in (
        "Judge: oracle",
        "greedy",
        "gamma 2.0",
        "(gamma 0)",
        "train_seed 2",
        "torch 2.13.0",
    ):
        assert piece in text
    assert "Prompt: the backbone's evaluate prompt" in text


def test_tables_are_the_same_bytes_each_time(runs_folder: Path):
    first, second = (
        render(compare_runs(["run-s1", "run-s3"], runs_folder=runs_folder), form)
        + render(compare_runs(["run-s1"], runs_folder=runs_folder), form)
        for form in ("md", "md")
    )
    assert first == second and "**+" in first


def test_unreadable_answers_are_those_of_the_strict_reading(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    key = ("pope", "adversarial", "accuracy", "merged")
    strict = dataclasses.replace(result.metrics[key], name="strict_accuracy", n_unreadable=7)
    metrics = {**result.metrics, ("pope", "adversarial", "strict_accuracy", "merged"): strict}
    table = comparison([dataclasses.replace(result, metrics=metrics)])
    row = find(table, **TUNED)
    assert (row["n_unreadable_base"], row["n_unreadable"]) == (0, 7)
    assert "0 → 7" in table.to_markdown()


def test_the_overview_sets_the_models_side_by_side(runs_folder: Path):
    result = dataclasses.replace(read_results("run-s1", runs_folder), is_mini=False)
    whole = comparison([result], read_reported(["hadpo"]))
    table = overview(whole)
    row = table.shown.set_index("Measure").loc["POPE adversarial: accuracy (%)"]
    assert row["Reported"] == "79.76 → 81.46"
    for column, model in (("Base", "base"), ("Tuned", "merged")):
        value = result.value(("pope", "adversarial", "accuracy", model))
        assert value is not None and row[column] == f"{100 * value:.2f}"
    assert row["Base, cut to the same length"] == "-"
    last = ["Tuned", "Difference", "95 % interval", "n", "Unreadable"]
    assert list(table.shown.columns)[-5:] == last
    shr = table.shown.set_index("Measure").loc["SHR: hallucinated sentences (%)"]
    assert shr["Reported"] == "36.7 ‡ → 34.0 ‡"  # no digit more than was published
    clear = {table.shown.loc[row, "Measure"] for row, _ in table.bold}
    assert "POPE adversarial: accuracy (%)" in clear and len(clear) < len(table.shown)


def test_published_numbers_never_stand_in_a_column_beside_a_mini_run(runs_folder: Path):
    mini = read_results("run-s1", runs_folder)
    whole = comparison([mini], read_reported(["hadpo"]))
    assert find(whole, **TUNED)["reported_base"] == pytest.approx(0.7976)  # the CSV's own column
    for table in (
        whole,
        overview(whole),
        comparison([mini], read_reported(["hadpo"]), by_run=True),
    ):
        assert not [head for head in table.shown.columns if "eported" in head]
        assert "79.76" not in table.to_markdown()
    real = dataclasses.replace(mini, name="real", recipe="own", is_mini=False)
    both = overview(comparison([mini, real], read_reported(["hadpo"]))).shown
    by_recipe = both[both["Measure"] == "POPE adversarial: accuracy (%)"].set_index("Recipe")
    assert by_recipe["Reported"].to_dict() == {"mini/llava": "-", "own": "79.76 → 81.46"}


def test_a_table_fits_a_terminal_and_loses_no_word(runs_folder: Path):
    table = overview(comparison([read_results("run-s1", runs_folder)]))
    text = table.to_text(100, hide=["Unreadable"])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    words = set(text.split())
    for row in table.shown.to_dict("records"):
        assert set(row["Measure"].split()) | {row["Base"], row["Tuned"]} <= words
    starred = {line.split()[0] for line in lines if "*" in line}
    assert len(table.bold) == text.count("*") and starred


def test_the_overview_has_a_column_for_a_model_without_a_title(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    more = {
        (*key[:3], "kto"): dataclasses.replace(m, model="kto")
        for key, m in result.metrics.items()
        if key[3] == "merged"
    }
    table = overview(comparison([dataclasses.replace(result, metrics={**result.metrics, **more})]))
    row = table.shown.set_index("Measure").loc["POPE adversarial: accuracy (%)"]
    assert row["Kto"] == row["Tuned"] != "-"
    assert list(table.shown.columns)[-6:-3] == ["Kto", "Tuned", "Difference"]


def test_the_overview_names_the_kinds_of_a_benchmark(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    metrics = {
        ("gavie", split, "accuracy", model): Metric(
            benchmark="gavie", split=split, name="accuracy", model=model, value=5.0, n=3
        )
        for split in ("all", "negative: absent object")
        for model in ("base", "merged")
    }
    table = overview(comparison([dataclasses.replace(result, metrics=result.metrics | metrics)]))
    titles = list(table.shown["Measure"])
    assert "GAVIE: accuracy (0-10)" in titles
    assert "GAVIE: accuracy (0-10), negative: absent object" in titles
    assert "SHR: hallucinated sentences (%)" in titles  # one split: nothing to name


def test_a_finetune_is_not_described_as_preference_training(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    train = {"objective": "sft", "trained": "adapter", "mean_over": "tokens", "beta": 0.1}
    settings = {**result.settings, "train": train}
    notes = comparison([dataclasses.replace(result, settings=settings)]).notes
    [note] = [note for note in notes if note.startswith("Training:")]
    assert "of adapter" in note and "over tokens" in note and "beta" not in note


def test_the_pope_table_shows_the_confusion_matrix(runs_folder: Path):
    tables = {t.name: t for t in compare_runs(["run-s1"], runs_folder=runs_folder)}
    frame = tables["pope"].frame
    counts = frame[["true_positives", "false_positives", "true_negatives", "false_negatives"]]
    assert list(counts.sum(axis=1)) == [120] * len(frame) and len(frame) == 9
    row = frame.iloc[0]
    accuracy = (row["true_positives"] + row["true_negatives"]) / 120
    assert row["accuracy"] == pytest.approx(accuracy)


def test_bad_comparisons_say_what_and_where(runs_folder: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="empty comparison"):
        compare_runs([], runs_folder=runs_folder)
    with pytest.raises(BadInput, match="'run-s1' is named twice"):
        compare_runs(["run-s1", "run-s1"], runs_folder=runs_folder)
    with pytest.raises(BadInput, match=r"'run-s9'.*not there.*evaluated runs: run-s1, run-s2"):
        compare_runs(["run-s9"], runs_folder=runs_folder)
    shutil.copytree(runs_folder / "run-s1", tmp_path / "torn")
    path = tmp_path / "torn" / "evaluate" / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(BadInput, match=r"metrics\.jsonl:\d+: not JSON"):
        compare_runs(["torn"], runs_folder=tmp_path)
    path.write_text("")
    with pytest.raises(BadInput, match="no metrics"):
        compare_runs(["torn"], runs_folder=tmp_path)
    manifest = tmp_path / "torn" / "evaluate" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "failed"}))
    with pytest.raises(BadInput, match="'torn' cannot be compared: its stage evaluate is failed"):
        compare_runs(["torn"], runs_folder=tmp_path)


def test_the_index_lists_every_stage(runs_folder: Path, tmp_path: Path):
    table = run_index(runs_folder)
    assert len(table.frame) == 9
    numbers = table.shown.set_index(["Run", "Stage"])["Key numbers"]
    metrics = {
        (m.split, m.name, m.model): m.value
        for m in read_jsonl(runs_folder / "run-s2" / "evaluate" / "metrics.jsonl", Metric)
    }
    base = metrics["adversarial", "accuracy", "base"]
    assert base is not None and f"accuracy {100 * base:.2f} →" in numbers["run-s2", "evaluate"]
    assert "loss 0.690" in numbers["run-s2", "train"]
    assert len(run_index(tmp_path).frame) == 0


def test_the_index_says_what_a_judge_has_cost(tmp_path: Path, write_run):
    write_run(tmp_path, "run-s1", seed=1)
    path = tmp_path / "run-s1" / "evaluate" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["facts"] = {"judge": {"bill": {"cost_usd": 1.254}}, "answers": {"base": 3}}
    path.write_text(json.dumps(manifest))
    shown = run_index(tmp_path).shown.set_index("Stage")["Cost"]
    assert dict(shown) == {"prepare": "-", "train": "-", "evaluate": "$1.25"}
