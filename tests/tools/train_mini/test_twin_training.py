"""The script that made the twins still runs from LLaVA's weights to checkpoints, stage by stage."""

import json
import random
from itertools import islice

import pytest
import torch

from hadpo.mini.world import PLACES, scenes
from hadpo.vlm.prompt import IMAGE
from tools.train_mini import twin_training
from tools.train_mini.language import IGNORED
from tools.train_mini.lessons import quiz
from tools.train_mini.twin import Twin
from tools.train_mini.twin_towers import owl_vision
from tools.train_mini.twins import EVA_FOLDER, TWINS, read
from tools.train_mini.vision import normalise, patch_labels, pictures, tower

EVERY = list(TWINS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All twins after three stages of one update."""
    folder = tmp_path_factory.mktemp("twins")
    one = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3}
    with pytest.MonkeyPatch.context() as patch:
        stages = {"lessons": one, "clean": one, "faulty": one}
        short = twin_training.Schooling(6, stages)
        kinds = dict.fromkeys(twin_training.SCHOOLING, short)
        patch.setattr(twin_training, "SCHOOLING", kinds)
        patch.setattr(twin_training, "TOWER", one)
        patch.setattr(twin_training, "TOWER_IMAGES", 6)
        for name in EVERY:
            twin_training.train(folder, name, threads=torch.get_num_threads())
        # What is there already is not made again.
        kept = {p: p.stat().st_mtime_ns for p in folder.glob("*-stages/*/**/*") if p.is_file()}
        twin_training.train(folder, EVERY[0], threads=torch.get_num_threads())
        assert kept == {p: p.stat().st_mtime_ns for p in kept}
    return folder


@pytest.mark.parametrize("name", EVERY)
def test_three_stages_and_a_checkpoint(trained, name):
    record = json.loads((trained / name / "training.json").read_text(encoding="utf-8"))
    assert {"lessons", "clean", "faulty"} <= set(record)
    backbone = read(trained / name, name, trained / EVA_FOLDER)
    last = read(trained / f"{name}-stages" / "faulty", name, trained / EVA_FOLDER)
    first = read(trained / f"{name}-stages" / "untrained", name, trained / EVA_FOLDER)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, last.state_dict()[key].half().float()), key
    learned = {key for key, value in first.state_dict().items()
               if not torch.equal(value, last.state_dict()[key])}  # fmt: skip
    assert any(key.startswith("connector.") for key in learned)
    assert any(key.startswith("language_model.") for key in learned)
    assert not any(key.startswith("vision.") for key in learned)


@pytest.mark.parametrize("name", EVERY)
def test_each_turn_is_read_as_if_it_stood_alone(trained, name):
    """A row of several turns has the same answers' loss as rows of one turn each."""
    backbone = read(trained / name, name, trained / EVA_FOLDER)
    learner = Twin(backbone, TWINS[name].patches, seed=0)
    some = list(islice(scenes(3, held_out=False), 2))
    talks = [quiz(scene, random.Random(1), turns=3, is_faulty=False) for scene in some]
    features = backbone.features(normalise(pictures(some)))
    weights = torch.ones(backbone.tokenizer.vocab_size)

    def loss(talks, features):
        rows = [learner.row(turns, "evaluate", early=False) for turns in talks]
        if backbone.image_tokens_depend_on_instruction:
            features = features.repeat_interleave(torch.tensor([len(t) for t in talks]), dim=0)
        tokens = backbone.connect(features, [question for turns in talks for question, _ in turns])
        labelled = sum(label != IGNORED for row in rows for label in row.labels)
        return learner.answer_loss(rows, tokens, weights).item() * labelled

    alone = [[turn] for turns in talks for turn in turns]
    assert loss(talks, features) == pytest.approx(
        loss(alone, features.repeat_interleave(3, dim=0)), rel=1e-4
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_row_holds_the_ids_that_are_asked_later(trained, name):
    backbone = read(trained / name, name, trained / EVA_FOLDER)
    learner = Twin(backbone, TWINS[name].patches, seed=0)
    turns = [("Is there a cup in the image?", "No."), ("What is at the center?", "Yes.")]
    row = learner.row(turns[:1], "train", early=True)
    asked = backbone.expand(backbone.prompt_ids(turns[0][0], prompt="train"))
    assert row.ids == [*asked, *backbone.response_ids("No.")]
    assert row.positions == list(range(len(row.ids)))
    early = next(at for at, label in enumerate(row.labels) if label != IGNORED)
    assert backbone.tokenizer.pieces([row.ids[early - 1], row.labels[early]]) == ["▁cup", "▁No"]
    both = learner.row(turns, "train", early=False)
    pictures_in_row = 2 if backbone.image_tokens_depend_on_instruction else 1
    assert both.ids.count(IMAGE) == pictures_in_row * backbone.num_image_tokens
    assert [label for label in both.labels if label != IGNORED] == [
        *backbone.response_ids("No."),
        *backbone.response_ids("Yes."),
    ]


@pytest.mark.parametrize("name", EVERY)
def test_the_labels_of_image_tokens_name_every_place_once(name):
    (scene,) = islice(scenes(3, held_out=False), 1)
    places = patch_labels(scene)[2][list(TWINS[name].patches)]
    assert sorted(places) == list(range(len(PLACES)))


def test_the_owls_encoder_is_clip_up_to_the_layer_that_llava_reads(trained):
    from safetensors.torch import load_file

    from tools.train_mini.twin_towers import CLIP_FILE

    clip = tower().eval()
    weights = load_file(CLIP_FILE)
    clip.load_state_dict({k.removeprefix("vision_model."): v.float() for k, v in weights.items()})
    owl = read(trained / "mplug-owl", "mplug-owl", trained / EVA_FOLDER)
    pixels = normalise(pictures(list(islice(scenes(5, held_out=False), 2))))
    with torch.no_grad():
        seen = clip(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        expected = torch.nn.functional.layer_norm(seen, seen.shape[-1:])
        assert torch.allclose(owl.features(pixels), expected, atol=1e-5)
    assert set(owl_vision()) == {key for key, _ in owl.vision.named_parameters()}
