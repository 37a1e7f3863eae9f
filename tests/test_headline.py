"""The headline, computed anew from the committed outcomes by code that shares none with hadpo.

Only json, csv and numpy: what README and docs say of methods must follow from files that anybody
can read.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
REPRODUCED = ROOT / "papers_results" / "reproduced"
RANKED = REPRODUCED / "ranked"
RUNS = sorted(REPRODUCED.glob("world-*-seed-*"))
pytestmark = pytest.mark.skipif(not RUNS, reason=f"no runs of the headline in {REPRODUCED}")
DRAWS = 2000


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(name: str) -> list[dict[str, str]]:
    with (RANKED / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read() -> dict[tuple[str, ...], dict[tuple[str, str], np.ndarray]]:
    """(benchmark, split, metric, model) -> (world, seed) -> images x 2."""
    found: dict[tuple[str, ...], dict[tuple[str, str], np.ndarray]] = {}
    for run in RUNS:
        world, seed = re.fullmatch(r"world-(\d+)-seed-(\d+)", run.name).groups()
        for line in [
            *lines(run / "evaluate" / "outcomes.jsonl"),
            *lines(RANKED / f"{run.name}.beyond.jsonl"),
        ]:
            for metric, (over, under) in line["sums"].items():
                key = (line["benchmark"], line["split"], metric, line["model"])
                order = np.argsort(line["images"])
                array = np.stack([np.array(over)[order], np.array(under)[order]], axis=1)
                found.setdefault(key, {})[world, seed] = array
    return found


@pytest.fixture(scope="module")
def sums():
    return read()


def ratio(array: np.ndarray) -> float:
    return array[:, 0].sum() / array[:, 1].sum()


def place(row: dict[str, str], model: str) -> tuple[str, ...]:
    return row["benchmark"], row["split"], row["metric"], model


def test_it_is_five_seeds_on_two_worlds_that_no_setting_saw():
    prepared = {path.name for path in REPRODUCED.glob("world-*") if path not in RUNS}
    searched = json.loads(
        (REPRODUCED / "search" / "search" / "prepare" / "manifest.json").read_text()
    )
    worlds = {
        json.loads((REPRODUCED / name / "prepare" / "manifest.json").read_text())["settings"][
            "data"
        ]["mini_seed"]
        for name in prepared
    }
    assert len(worlds) == 2
    assert not worlds & {searched["settings"]["data"]["mini_seed"], 7, 21, 22, 23, 24}
    seeds = {path.name.rpartition("-")[2] for path in RUNS}
    assert len(RUNS) == 10
    assert len(seeds) == 5


def test_every_run_is_of_one_clean_commit():
    manifests = [
        json.loads(path.read_text()) for path in REPRODUCED.glob("world-*/*/manifest.json")
    ]
    assert len(manifests) >= 2 + 3 * 10
    assert {m["status"] for m in manifests} == {"done"}
    assert not any(m["git_dirty"] for m in manifests)
    assert len({m["git_commit"] for m in manifests}) == 1


def test_every_method_has_what_the_same_search_chose_for_it():
    chosen = {row["method"]: row for row in rows("search") if row["chosen"] == "1"}
    tried: dict[str, set] = {}
    for row in rows("search"):
        tried.setdefault(row["method"], set()).add((row["learning_rate"], row["steps"]))
        assert float(row["f1"]) <= float(chosen[row["method"]]["f1"])
    assert len({frozenset(each) for each in tried.values()}) == 1
    assert {len(each) for each in tried.values()} == {10}
    for run in RUNS:
        train = json.loads((run / "train" / "manifest.json").read_text())["settings"]["train"]

        def by_name(text):
            return dict(part.strip().split("=") for part in text.split(",") if "=" in part)

        rates = by_name(train["control_learning_rate"]) | {"dpo": train["learning_rate"]}
        steps = by_name(train["control_steps"])
        for method, row in chosen.items():
            assert float(rates[method]) == float(row["learning_rate"]), method
            own = train["steps"] if method == "dpo" else steps.get(method, train["steps"])
            assert int(own) == int(row["steps"]), method


def test_the_means_follow_from_the_outcomes(sums):
    means = rows("means")
    assert len(means) >= 50
    for row in means:
        own = sums[place(row, row["method"])]
        values = [ratio(array) for array in own.values()]
        assert float(row["mean"]) == pytest.approx(np.mean(values), abs=1e-12), row
        assert int(row["runs"]) == len(values)
        assert int(row["worlds"]) == len({world for world, _ in own})
        assert int(row["images"]) == min(map(len, own.values()))


def naive(control, tuned, generator) -> np.ndarray:
    """Draws of the mean difference: images of a world, then its seeds, world by world."""
    drawn = np.zeros(DRAWS)
    for world in sorted({world for world, _ in tuned}):
        seeds = [key for key in tuned if key[0] == world]
        images = len(tuned[seeds[0]])
        for draw in range(DRAWS):
            times = np.bincount(generator.integers(images, size=images), minlength=images)
            for i in generator.integers(len(seeds), size=len(seeds)):
                over, under = times @ tuned[seeds[i]]
                other_over, other_under = times @ control[seeds[i]]
                drawn[draw] += (over / under - other_over / other_under) / len(tuned)
    return drawn


HEADLINE = [
    ("claims", "val", "f1"),
    ("claims", "val", "precision"),
    ("claims", "val", "recall"),
    ("claims", "val", "wrong_claims_per_answer"),
    ("pope", "adversarial", "accuracy"),
    ("neutral", "place", "drift"),
]


@pytest.mark.parametrize(
    ("measure", "control"), [*((each, "sft") for each in HEADLINE), (HEADLINE[0], "sft_true")]
)
def test_the_differences_and_their_intervals_follow_from_the_outcomes(sums, measure, control):
    [row] = [
        row
        for row in rows("differences")
        if (row["benchmark"], row["split"], row["metric"], row["method"]) == (*measure, control)
    ]
    tuned, other = sums[(*measure, "merged")], sums[(*measure, control)]
    each = [ratio(tuned[key]) - ratio(other[key]) for key in tuned]
    assert float(row["difference"]) == pytest.approx(np.mean(each), abs=1e-12)
    drawn = naive(other, tuned, np.random.default_rng(1))
    ends = np.quantile(drawn, [0.025, 0.975])
    width = ends[1] - ends[0]
    assert [float(row["low"]), float(row["high"])] == pytest.approx(ends, abs=0.08 * width)


def test_the_exports_hold_every_runs_numbers(sums):
    found = rows("every_run")
    assert {row["run"] for row in found} == {path.name for path in RUNS}
    for row in found:
        world, seed = re.findall(r"\d+", row["run"])
        own = sums[place(row, row["method"])][world, seed]
        assert float(row["value"]) == pytest.approx(ratio(own), abs=1e-12)


def test_what_the_defects_cost_follows_from_the_outcomes(sums):
    found = rows("defects")
    assert {row["defect"] for row in found} == {
        *("unsynchronised-2", "unsynchronised-4", "drifting-reference", "other-prompt-reference")
    }
    for row in found:
        runs = sorted((REPRODUCED / "defects").glob(f"{row['defect']}-world-*-seed-*"))
        assert len(runs) == int(row["runs"]) == 10
        each = []
        for run in runs:
            world, seed = re.fullmatch(r".*-world-(\d+)-seed-(\d+)", run.name).groups()
            [own] = [
                line["sums"][row["metric"]]
                for line in lines(run / "evaluate" / "outcomes.jsonl")
                if (line["benchmark"], line["split"]) == (row["benchmark"], row["split"])
            ]
            without = ratio(sums[place(row, "merged")][world, seed])
            each.append(sum(own[0]) / sum(own[1]) - without)
        assert float(row["difference"]) == pytest.approx(np.mean(each), abs=1e-12), row


def test_every_run_is_of_a_clean_commit_that_the_readme_names():
    kept = [json.loads(path.read_text()) for path in sorted(REPRODUCED.rglob("manifest.json"))]
    assert not [run["name"] for run in kept if run["git_dirty"]]
    named = set(re.findall(r"\b[0-9a-f]{7}\b", (REPRODUCED / "README.md").read_text()))
    assert named == {run["git_commit"][:7] for run in kept}


# What README and docs say of two methods.

_TRIPLE = re.compile(
    r"([-+]\d[\d.]*)(?: points| nats)?[^\[\]\d]{0,30}\[([-+]\d[\d.]*), ([-+]\d[\d.]*)\]"
)


def said() -> list[tuple[str, str]]:
    """Each paragraph of README and docs, tables left out, in which an interval stands."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            if not re.match(r"\s*(\||```|<!--)", part):
                text = " ".join(part.split())
                found += [(path.name, text)] if _TRIPLE.search(text) else []
    return found


def test_what_is_said_of_two_methods_stands_in_the_committed_tables():
    paragraphs = said()
    assert {name for name, _ in paragraphs} >= {"README.md", "results.md"}
    shown = "".join((RANKED / f"{name}.md").read_text() for name in ("headline", "defects"))
    shown = shown.replace("**", "")
    for name, text in paragraphs:
        for word in ("images", "seeds", "worlds", "95 %"):
            assert word in text, (name, word, text)
        for triple in _TRIPLE.findall(text):
            difference, low, high = triple
            assert f"{difference} [{low}, {high}]" in shown, (name, triple)


def test_the_table_in_the_readme_is_that_of_the_committed_runs():
    text = (ROOT / "README.md").read_text().partition("<!-- headline -->\n")[2]
    shown = [line.strip("| ").split(" | ") for line in text.partition("<!--")[0].splitlines()]
    made = [line.strip("| ").split(" | ") for line in (RANKED / "headline.md").open()]
    names = made[0]
    assert len(shown) == 2 + 7
    for cells, line in zip(shown[2:], made[2:], strict=False):
        whole = dict(zip(names, [cell.strip() for cell in line], strict=True))
        assert cells == [whole[name] for name in shown[0]]
