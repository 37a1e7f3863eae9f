"""The script that made the modern twin still runs from LLaVA's weights to a folder."""

import json
import random
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from hadpo import batch
from hadpo.mini.draw import draw
from hadpo.mini.world import scenes
from hadpo.records import Pair
from tools.train_mini import modern
from tools.train_mini.language import IGNORED
from tools.train_mini.lessons import quiz
from tools.train_mini.vision import normalise


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All stages, two updates each."""
    folder = tmp_path_factory.mktemp("modern")
    two = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modern, "IMAGES", 6)
        patch.setattr(modern, "TOWER", two)
        patch.setattr(modern, "SCHOOLING", dict.fromkeys(modern.SCHOOLING, two))
        modern.train(folder, threads=torch.get_num_threads())
        # What is there already is not made again.
        stages = folder / f"{modern.NAME}-stages"
        kept = {path: path.stat().st_mtime_ns for path in stages.glob("*/*")}
        modern.train(folder, threads=torch.get_num_threads())
        assert kept == {path: path.stat().st_mtime_ns for path in kept}
    return folder


def test_stages_and_a_folder(trained):
    stages = trained / f"{modern.NAME}-stages"
    record = json.loads((trained / modern.NAME / "training.json").read_text(encoding="utf-8"))
    assert {"tower", "lessons", "clean", "faulty"} <= set(record)
    names = ("untrained", "tower", "lessons", "faulty")
    states = [modern.read(stages / name).state_dict() for name in names]
    shipped = modern.read(trained / modern.NAME).state_dict()
    for key, value in states[-1].items():
        assert torch.equal(shipped[key], value.half().float()), key

    def learned(before, after):
        return {key for key, value in before.items() if not torch.equal(value, after[key])}

    in_tower = learned(*states[:2])
    assert in_tower and all(".visual." in key and "merger" not in key for key in in_tower)
    for pair in pairwise(states[1:]):
        changed = learned(*pair)
        assert any(".language_model.layers." in key for key in changed)
        assert any("deepstack_merger" in key for key in changed)
        assert not any(".visual." in key and "merger" not in key for key in changed)


@pytest.mark.parametrize("size", modern.SIZES)
def test_a_turn_is_read_as_it_is_asked_later(trained, size, tmp_path):
    """Several turns of a row, a row each, and the kit's own rows give an answer the same loss."""
    backbone = modern.read(trained / modern.NAME)
    learner = modern.Modern(backbone, seed=0)
    scene = next(scenes(3, held_out=False))
    turns = quiz(scene, random.Random(1), turns=3, is_faulty=False)
    height, width = size
    draw(scene).resize((width, height)).save(tmp_path / "scene.png")
    (pixels,) = batch.read_pixels(backbone, [str(tmp_path / "scene.png")])
    made = learner.visual(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
    weights = torch.ones(learner.tokenizer.vocab_size())

    def loss(talks):
        rows = [learner.row(turns, size, early=False) for turns in talks]
        tokens = made.pooler_output.expand(len(rows), -1, -1)
        deepstack = [layer.repeat(len(rows), 1) for layer in made.deepstack_features]
        labelled = sum(label != IGNORED for row in rows for label in row.labels)
        return learner.answer_loss(rows, size, tokens, deepstack, weights).item() * labelled

    alone = [[turn] for turn in turns]
    assert loss([turns]) == pytest.approx(loss(alone), rel=1e-4)
    asked = [
        batch.tokenize(
            backbone,
            Pair(
                pair_id=str(number),
                kind="pope",
                image_id="0",
                image=str(tmp_path / "scene.png"),
                instruction=question,
                chosen=answer,
                rejected="No.",
                source="test",
            ),
            max_length=512,
        )
        for number, (question, answer) in enumerate(turns)
    ]
    layout = batch.pack(asked, sides=("chosen",))
    inputs = batch.embed(backbone, layout, batch.read_pixels(backbone, layout.images))
    table = batch.token_table(backbone, layout, inputs)[0]
    assert loss(alone) == pytest.approx(-float(table.sum()), rel=1e-4)


def test_pixels_are_the_processors(trained):
    """Pictures as the training flattens them, beside the folder's own processor."""
    backbone = modern.read(trained / modern.NAME)
    for scene in islice(scenes(3, held_out=False), 2):
        image = draw(scene)
        own = backbone.preprocess(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        found, grids = modern.patches(normalise(pixels))
        assert torch.equal(own["image_grid_thw"], grids)
        assert torch.allclose(own["pixel_values"], found, atol=1e-6)
