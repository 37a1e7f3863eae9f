"""The reference on disk: hits, misses, refusal by each field, and no forward pass where it is."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from hadpo import adapter, backbones, batch, trainer
from hadpo.records import BadInput
from hadpo.trainer import reference
from hadpo.vlm.prompt import Prompts, PromptTemplate


@pytest.fixture
def cached(fast):
    return replace(fast, reference="cache", steps=3)


@pytest.fixture
def passes(monkeypatch):
    """Counts passes of the language model with the adapter off, and with it on."""
    counts = {"off": 0, "on": 0}
    is_off = []
    disabled, answer_logps = adapter.disabled, batch.answer_logps

    class Watched:
        def __init__(self, backbone):
            self.inner = disabled(backbone)

        def __enter__(self):
            is_off.append(True)
            return self.inner.__enter__()

        def __exit__(self, *error):
            is_off.pop()
            return self.inner.__exit__(*error)

    def counted(*arguments):
        counts["off" if is_off else "on"] += 1
        return answer_logps(*arguments)

    monkeypatch.setattr(adapter, "disabled", Watched)
    monkeypatch.setattr(batch, "answer_logps", counted)
    return counts


def test_a_second_run_does_no_reference_pass(
    cached, learn, equal, passes, tiny_llava, tiny_pairs, tmp_path
):
    held_out = tiny_pairs[8:]
    arguments = {"held_out": held_out, "cache": tmp_path}
    first, expected = learn(tiny_llava(), tiny_pairs[:8], cached, **arguments)
    assert passes["off"] == 5  # ten pairs, two at a time
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    passes |= {"off": 0, "on": 0}
    second, found = learn(tiny_llava(), tiny_pairs[:8], cached, **arguments)
    assert passes["off"] == 0 and passes["on"] > 0
    assert second == first and equal(found, expected)
    other = replace(cached, beta=0.5, learning_rate=1e-4, lora_rank=2, steps=1)  # a sweep
    learn(tiny_llava(), tiny_pairs[:8], other, **arguments)
    assert passes["off"] == 0


def test_it_learns_what_adapter_off_learns(cached, learn, tiny_llava, tiny_pairs, tmp_path):
    off, expected = learn(
        tiny_llava("float64"), tiny_pairs, replace(cached, reference="adapter_off")
    )
    kept, found = learn(tiny_llava("float64"), tiny_pairs, cached, cache=tmp_path)
    assert off[0].metrics["loss"] == pytest.approx(math.log(2), abs=1e-7)
    for a, b in zip(off, kept, strict=True):
        assert a.metrics["rewards/margins"] == pytest.approx(b.metrics["rewards/margins"], abs=1e-6)
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= 1e-6 * value.abs().max()


def test_pairs_that_are_new_are_added(cached, passes, tiny_llava, tiny_pairs, tmp_path):
    first = reference.prepare(tiny_llava(), tiny_pairs[:4], cached, tmp_path)
    assert (first.found, first.computed) == (0, 4) and passes["off"] == 2
    assert (
        reference.describe_references(tmp_path, tiny_pairs, cached)
        == "cache: 4 of 10 pairs are there"
    )
    more = reference.prepare(tiny_llava(), tiny_pairs[2:], cached, tmp_path)
    assert (more.found, more.computed) == (2, 6) and passes["off"] == 5
    ids = [pair.pair_id for pair in tiny_pairs[:4]]
    assert torch.equal(more.of(ids), first.of(ids))
    assert len(list(tmp_path.iterdir())) == 2
    backbone = tiny_llava()
    adapter.attach(backbone, rank=2, alpha=4.0, targets="q_proj")  # the base below is the same
    again = reference.prepare(backbone, tiny_pairs, cached, tmp_path)
    assert again.computed == 0 and adapter.is_attached(backbone)


def _other_prompt(backbone):
    template = PromptTemplate("<s>Q: <image> {instruction} A:")
    backbone.PROMPTS = Prompts(train=template, evaluate=template)


@pytest.fixture
def filled(cached, tiny_llava, tiny_pairs, tmp_path):
    """Asks for the same pairs again, after some change of the backbone, the pairs or a setting."""
    reference.prepare(tiny_llava(), tiny_pairs, cached, tmp_path)

    def ask(change=None, pair=None, backbone=None, **settings):
        model = backbone or tiny_llava()
        if change:
            change(model)
        pairs = [replace(tiny_pairs[0], **pair), *tiny_pairs[1:]] if pair else tiny_pairs
        return reference.prepare(model, pairs, replace(cached, **settings), tmp_path)

    return ask


def test_refused_by_base_weights(filled, tiny_llava):
    def change(backbone):
        next(iter(backbone.vision.parameters())).data[..., 0] += 1

    with pytest.raises(BadInput, match=r"something else: base weights: \w{16} there, \w{16} here;"):
        filled(change)

    def head(backbone):
        backbone.language_model.lm_head.weight.data[3] += 1

    with pytest.raises(BadInput, match="else: base weights: "):
        filled(head)


def test_refused_by_prompt(filled):
    with pytest.raises(BadInput, match="else: prompt: "):
        filled(_other_prompt)


def test_refused_by_dtype(filled, tiny_llava):
    with pytest.raises(BadInput, match=r"else: dtype: float32 there, bfloat16 here; delete"):
        filled(backbone=tiny_llava("bfloat16"))


def test_refused_by_preprocessing(filled, monkeypatch):
    def change(backbone):
        monkeypatch.setattr(type(backbone), "preprocess", lambda self, x: torch.zeros(3, 28, 28))

    with pytest.raises(BadInput, match="else: preprocessing: "):
        filled(change)


def test_refused_by_how_picture_files_are_read(filled):
    with pytest.raises(BadInput, match=r"preprocessing: (\w{16}) there, \1, as_stored here;"):
        filled(lambda backbone: setattr(backbone, "exif", "as_stored"))


def test_refused_by_tokenizer(filled, tiny_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "llava"
    shutil.copytree(tiny_files["language_model"], folder)
    files = {**tiny_files, "language_model": folder}
    backbone = backbones.load("llava/mini", files, device="cpu")
    path = backbone.tokenizer.path
    path.write_bytes(path.read_bytes() + b"\x10")
    with pytest.raises(BadInput, match="else: tokenizer: "):
        filled(backbone=backbone)


@pytest.mark.parametrize("name", ["instruction", "chosen", "rejected"])
def test_refused_by_texts(filled, name):
    with pytest.raises(BadInput, match=rf"else: pair pair-0: {name}: .*; token ids: .*delete the"):
        filled(pair={name: "Another text."})


def test_refused_by_image_bytes(filled, tiny_pairs, tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "other.png"
    shutil.copyfile(tiny_pairs[0].image, path)
    same = filled(pair={"image": str(path)})  # the same bytes under another name are the same
    assert same.computed == 0
    with Image.open(path) as picture:
        picture.rotate(180).save(path)
    with pytest.raises(BadInput, match="else: pair pair-0: image: "):
        filled(pair={"image": str(path)})


def test_refused_where_answers_are_cut_elsewhere(filled, tiny_llava, tiny_pairs):
    prefix = max(len(batch.tokenize(tiny_llava(), p, max_length=512).prefix) for p in tiny_pairs)
    assert filled(max_length=400).computed == 0  # nothing is cut: nothing changes
    with pytest.raises(BadInput, match=r"pair pair-\d: token ids: "):
        filled(max_length=prefix + 3)


def test_refused_where_files_are_broken(filled, tmp_path):
    tensors = next(tmp_path.glob("*.safetensors"))
    good = tensors.read_bytes()
    tensors.write_bytes(good[:-1] + b"?")
    with pytest.raises(BadInput, match="not what its manifest says; delete the folder"):
        filled()
    tensors.write_bytes(good[:9])
    with pytest.raises(BadInput, match="not readable"):
        filled()
    tensors.write_bytes(good)
    assert filled().computed == 0
    manifest = tmp_path / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({"pairs": values["pairs"]}))
    with pytest.raises(BadInput, match="expected made_from, file and pairs"):
        filled()
    manifest.write_text("{")
    with pytest.raises(
        BadInput, match=r"manifest\.json: not JSON .it is cut off.; delete the folder"
    ):
        filled()


def test_what_cannot_be_kept(cached, tiny_llava, tiny_pairs, tmp_path):
    with pytest.raises(BadInput, match="needs a folder"):
        list(trainer.steps(tiny_llava(), tiny_pairs, cached))
    twice = [tiny_pairs[0], replace(tiny_pairs[1], pair_id=tiny_pairs[0].pair_id)]
    with pytest.raises(BadInput, match="two different pairs are called pair-0"):
        reference.prepare(tiny_llava(), twice, cached, tmp_path)
    backbone = tiny_llava()
    backbone.language_model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(FloatingPointError, match="not a number on the pairs pair-"):
        reference.prepare(backbone, tiny_pairs, cached, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match=r"no image gone\.png of pair pair-0"):
        gone = [replace(tiny_pairs[0], image="gone.png")]
        reference.prepare(tiny_llava(), gone, cached, tmp_path)
