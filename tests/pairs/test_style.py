"""What else than truth tells chosen from rejected."""

import math
import os
from pathlib import Path

import pytest
import torch

from hadpo import backbones, batch
from hadpo.pairs import measure_style, prepare, summarize_style
from hadpo.pairs.style import of_texts
from hadpo.records import BadInput, Pair, read_jsonl
from hadpo.runs.run import open_run

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
needs_photos = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no {SHARED}/data")


def pair(chosen, rejected):
    return Pair(
        pair_id="1",
        image_id="7",
        image="7.jpg",
        instruction="?",
        chosen=chosen,
        rejected=rejected,
        kind="description",
        source="test",
    )


def test_texts_are_measured_by_hand():
    found = of_texts(pair("A red cup. It stands.", "A red dog. It stands here."))
    assert (found["words_chosen"], found["words_rejected"]) == (5, 6)
    assert (found["sentences_chosen"], found["sentences_rejected"]) == (2, 2)
    assert found["shared_1"] == pytest.approx(4 / 6)  # a red it stands, not dog here
    assert found["shared_2"] == pytest.approx(2 / 5)  # "a red", "it stands"
    assert of_texts(pair("", ""))["shared_3"] == 0


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HADPO_SHARED", str(SHARED))

    def opened(recipe="photoset", **overrides):
        return open_run("prepare", recipe, "test", overrides)

    return opened


@needs_photos
def test_published_pairs_need_no_model(run, monkeypatch):
    opened = run(held_out_share=0.0)
    prepare(opened)
    monkeypatch.setattr(backbones, "load_for", None)
    rows = measure_style(opened)
    assert len(rows) == 5 and all(row["perplexity_chosen"] is None for row in rows)
    facts = summarize_style(rows)
    assert facts["description pairs"] == 5 and "chosen likelier" not in facts
    opened.path("style.jsonl").unlink()
    opened.path("pairs.jsonl").unlink()  # as where instructions alone are finetuned on
    assert measure_style(opened) == []
    assert summarize_style([]) == {"description pairs": 0}


def test_perplexity_is_that_of_the_base_and_kept(run, monkeypatch):
    small = {"mini_train_images": 12, "mini_test_images": 2, "description_images": 12}
    opened = run("mini/llava-smoke", yes_no_pairs=2, held_out_share=0.0, **small)
    from hadpo import doctor

    doctor.inputs(opened)
    prepare(opened)
    rows = measure_style(opened)
    pairs = [p for p in read_jsonl(opened.path("pairs.jsonl"), Pair) if p.kind == "description"]
    assert len(rows) == len(pairs) > 2
    backbone = backbones.load_for(opened.recipe, backbones.files_of(opened.recipe, opened.resolve))
    example = batch.tokenize(backbone, pairs[-1], max_length=2048)
    packed = batch.pack([example])
    with torch.no_grad():
        inputs = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))
        chosen, rejected = batch.answer_logps(backbone, packed, inputs)[:, 0].tolist()
    expected = math.exp(-chosen / len(example.chosen)), math.exp(-rejected / len(example.rejected))
    found = rows[-1]["perplexity_chosen"], rows[-1]["perplexity_rejected"]
    assert found == pytest.approx(expected, rel=1e-4)
    facts = summarize_style(rows)
    # a mini base finds its own words likelier than the corrected ones
    assert facts["perplexity under the base, rejected"] > 1 and 0 <= facts["chosen likelier"] <= 1
    assert facts["sentences, chosen"] == facts["sentences, rejected"]
    monkeypatch.setattr(backbones, "load_for", None)
    assert measure_style(opened) == rows  # nothing is computed twice
    with opened.path("pairs.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(BadInput, match=r"style\.jsonl was begun with other files"):
        measure_style(opened)
