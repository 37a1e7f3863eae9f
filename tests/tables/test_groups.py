"""Which runs are averaged: those that differ in their seeds, and no others."""

from pathlib import Path

import pytest

from hadpo.figures.bars import dumbbell
from hadpo.tables import RunResults, comparison, overview, read_results
from hadpo.tables.comparison import controls
from hadpo.tables.results import groups


def made_up(name: str, recipe: str = "mini/llava", **train) -> RunResults:
    sections = {"model": {"device": "cpu", "files": {"llava": "a"}}, "train": {"beta": 0.1} | train}
    return RunResults(name=name, recipe=recipe, is_mini=True, metrics={}, settings=sections)


def labelled(*results: RunResults) -> dict[str, list[str]]:
    return {label: [r.name for r in group] for label, group in groups(results).items()}


def test_two_seeds_are_one_group_and_two_betas_are_two():
    assert labelled(made_up("a", train_seed=1), made_up("b", train_seed=2)) == {
        "mini/llava": ["a", "b"]
    }
    assert labelled(made_up("a"), made_up("b", beta=0.2), made_up("c", train_seed=9)) == {
        "mini/llava, beta 0.1": ["a", "c"],
        "mini/llava, beta 0.2": ["b"],
    }


def test_the_label_names_only_what_differs_within_a_recipe():
    a, b = made_up("a"), made_up("b", gamma=2.0, train_seed=2)
    other = made_up("c", recipe="mini/other", beta=0.7)
    assert labelled(a, b, other) == {
        "mini/llava, gamma -": ["a"],
        "mini/llava, gamma 2.0": ["b"],
        "mini/other": ["c"],
    }


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("model", "device", "cuda"),
        ("model", "files", {"llava": "elsewhere"}),
        ("data", "coco", "elsewhere"),
        ("prepare", "prepare_seed", 7),
        ("data", "mini_seed", 7),
        ("evaluate", "evaluate_seed", 7),
    ],
)
def test_machines_and_seeds_set_no_run_apart(section, name, value):
    a, b = made_up("a"), made_up("b")
    settings = {**b.settings, section: {**b.settings.get(section, {}), name: value}}
    b = RunResults(name="b", recipe=b.recipe, is_mini=True, metrics={}, settings=settings)
    assert labelled(a, b) == {"mini/llava": ["a", "b"]}


def test_tables_and_picture_keep_runs_with_other_settings_apart(tmp_path: Path, write_run):
    for name, seed, beta in (("a", 1, 0.1), ("b", 2, 0.1), ("c", 3, 0.2)):
        write_run(tmp_path, name, seed=seed, beta=beta)
    results = [read_results(name, tmp_path) for name in "abc"]
    table = comparison(results)
    two, one = "mini/llava, beta 0.1", "mini/llava, beta 0.2"
    assert set(table.shown["Recipe"]) == {two, one}
    frame = table.frame[table.frame["measure"] == "accuracy"]
    runs = frame.groupby("group")["runs"].unique()
    assert (list(runs[two]), list(runs[one])) == ([2], [1])
    by_run = comparison(results, by_run=True).frame
    row = frame[(frame["group"] == one) & (frame["model"] == "merged")].iloc[0]
    alone = by_run[(by_run["run"] == "c") & (by_run["measure"] == "accuracy")]
    assert row["difference"] == alone[alone["model"] == "merged"].iloc[0]["difference"]
    assert row["interval"] == "paired"
    against = controls(results)
    assert against is not None and set(against.shown["Recipe"]) == {two, one}
    assert set(overview(table).shown["Recipe"]) == {two, one}
    labels = [t.get_text() for t in dumbbell(table).drawing.axes[0].get_yticklabels()]
    assert sum(label.startswith(two) for label in labels) == len(labels) / 2 > 0
    text = table.to_markdown()
    assert "Runs of mini/llava differ in beta: 0.1, 0.2." in text
    assert "95 % interval of one run" in text and "95 % interval of several runs" in text


def test_a_path_is_never_printed(tmp_path: Path, write_run):
    for seed in (1, 2):
        write_run(tmp_path, f"s{seed}", seed=seed)
        manifest = tmp_path / f"s{seed}" / "prepare" / "manifest.json"
        text = manifest.read_text()
        place = f'"prepare_seed": 42, "coco": "/home/someone{seed}"'
        assert '"prepare_seed": 42' in text
        manifest.write_text(text.replace('"prepare_seed": 42', place))
    text = comparison([read_results(f"s{seed}", tmp_path) for seed in (1, 2)]).to_markdown()
    assert "Runs of mini/llava differ in the place of coco." in text
    assert "someone" not in text
