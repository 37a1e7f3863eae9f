"""Instructions that prepare reads, from every sort of place; and a whole small finetune of one."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from hadpo import adapter, trainer
from hadpo.benchmarks import evaluate
from hadpo.pairs import plan, prepare, read_prepared
from hadpo.records import BadInput, Instruction, Metric, read_jsonl, write_jsonl
from hadpo.runs.run import open_run

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
LRV = SHARED / "data" / "photoset" / "lrv"
pytestmark = pytest.mark.skipif(not LRV.is_dir(), reason=f"no {LRV}")


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HADPO_SHARED", str(SHARED))


@pytest.fixture
def recipe(tmp_path):
    """The photos' recipe, finetuning the connector of the recorded LLaVA on LRV's files."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"""extends: photoset
title: t
data:
  instructions: {LRV}/filter_cap1.json, {LRV}/chart_release_update.json
  pairs_folder: ""
prepare:
  pair_source: none
train:
  objective: sft
  trained: connector
  description_share: 0.5
evaluate:
  benchmark_names: pope
  models: base,merged
  questions_limit: 2
"""
    )
    return str(path)


def opened(recipe, stage="prepare", **overrides):
    return open_run(stage, recipe, "test", overrides)


def test_places_kinds_and_the_split_by_image(recipe, tmp_path):
    run = opened(recipe, held_out_share=0.34)
    assert plan(run)["instructions from"].endswith("chart_release_update.json")
    counts = prepare(run)
    train = list(read_jsonl(run.path("instructions.jsonl"), Instruction))
    held = list(read_jsonl(run.path("held_out_instructions.jsonl"), Instruction))
    kinds = Counter(record.kind for record in (*train, *held))
    assert kinds == {"positive": 20, "negative": 15, "chart": 2}
    assert not {r.image_id for r in train} & {r.image_id for r in held} and held
    assert counts["instructions"] == len(train) == 37 - counts["held-out instructions"]
    assert counts["instructions read: filter_cap1.json, negative"] == 15
    assert read_prepared(run) == train
    assert not run.path("export").is_dir()
    assert {"filter_cap1.json", "chart_release_update.json"} <= run.manifest.facts["inputs"].keys()


def test_only_the_wanted_kinds(recipe):
    counts = prepare(opened(recipe, instruction_kinds="positive", limit=7))
    assert counts["instructions: positive"] == 7 and "instructions: negative" not in counts
    assert counts["instructions left out: not of instruction_kinds"] == 17


def test_captions_and_records(recipe, tmp_path):
    folder = SHARED / "data" / "photoset" / "cc_sbu_align"
    one = Instruction(
        instruction_id="a",
        image_id="x",
        image=str(folder / "image" / "2363134.jpg"),
        instruction="Look.",
        answer="A photo.",
        kind="caption",
        source="mine",
        weight=2.5,
    )
    write_jsonl(tmp_path / "mine.jsonl", [one])
    run = opened(recipe, instructions=f"{folder}, {tmp_path}/mine.jsonl", held_out_share=0.0)
    prepare(run)
    found = read_prepared(run)
    assert found[-1] == one
    assert [(r.source, r.kind) for r in found[:-1]] == [("cc_sbu_align", "caption")] * 2
    write_jsonl(tmp_path / "mine.jsonl", [one, replace(one, instruction_id="a\u200b")])
    with pytest.raises(BadInput, match=r"a second instruction 'a.u200b'"):
        prepare(run)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"instructions": "nowhere.json"}, "data.instructions: nothing at"),
        (
            {"instruction_kinds": "positve"},
            "instruction_kinds: no 'positve'; did you mean 'positive'",
        ),
        ({"instruction_kinds": "caption"}, "no instruction of caption"),
        ({"instructions": f"{LRV}/filter_cap1.json, {LRV}/filter_cap1.json"}, "a second instr"),
        ({"instructions": ""}, "no pairs"),
    ],
)
def test_what_is_refused(recipe, overrides, message):
    with pytest.raises(BadInput, match=message):
        prepare(opened(recipe, **overrides))


def test_a_record_that_weighs_nothing_is_refused(recipe, tmp_path):
    prepare(opened(recipe))
    line = json.loads((opened(recipe).path("instructions.jsonl")).read_text().splitlines()[0])
    (tmp_path / "bad.jsonl").write_text(json.dumps(line | {"weight": 0.0}) + "\n")
    with pytest.raises(BadInput, match=r"weighs 0\.0"):
        run = open_run("prepare", recipe, "other", {"instructions": str(tmp_path / "bad.jsonl")})
        prepare(run)


def test_a_trained_connector_goes_through_all_stages(recipe):
    run = opened(recipe)
    prepare(run)
    run.finish()
    run = opened(recipe, "train")
    facts = trainer.plan(run)
    assert facts["objective"] == "sft" and "reference" not in facts
    assert sum(facts["seen_by_source"].values()) == facts["pairs_seen"] == 20
    (row,) = trainer.decode_batch(run, 1)
    assert row["chosen_pieces"][-1] == "</s>" and "rejected" not in row
    steps = list(trainer.train(run))
    assert len(steps) == 5 and list(trainer.train(run)) == steps  # read back, not trained again
    assert (run.path("connector") / "mm_projector.bin").is_file()
    assert not run.path("adapter").exists()
    assert (
        adapter.describe_learned({"connector": run.folder / "connector"})["connector"]
        == "mm_projector.bin"
    )
    run.finish()
    run = opened(recipe, "merge")
    results = adapter.merge_run(run)
    assert set(results) == {"merged"}
    assert results["merged"]["adapter to merged files, nats per token"] == 0
    assert [p.name for p in run.path("merged").iterdir()] == ["connector"]
    run.finish()
    metrics = evaluate(opened(recipe, "evaluate"))
    assert {m.model for m in metrics if isinstance(m, Metric)} == {"base", "merged"}
