"""A new backbone is one file of parts of `hadpo.vlm`: it loads, answers, trains and is saved."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from hadpo import backbones, plugins, trainer
from hadpo.config import TrainConfig
from hadpo.generation import Decoding, generate
from hadpo.records import BadInput, Instruction, Question

OWN = '''
"""CLIP and a LLaMA joined as in LLaVA, but the image comes first and every third patch is seen."""

from typing import ClassVar

import torch
from torch import nn

from hadpo.vlm import Backbone, ModelSizes, PromptTemplate, Prompts, Variant, checkpoint, decoder
from hadpo.vlm.prompt import LlamaTokenizer
from hadpo.vlm.vision import CLIP_KEYS, ClipTower, Preprocessing, clip_ignored

_ASK = PromptTemplate("<s><image>Q: {instruction} A:")
VARIANTS = {
    "small": Variant(
        prompts=Prompts(train=_ASK, evaluate=_ASK),
        source="written by a test",
        sizes=ModelSizes(width=32, inner=48, layers=2, vocab=360, others=5000, image_tokens=2),
    )
}
PARTS = {"language_model": "folder of a LLaVA", "vision": "folder of a CLIP"}
OPTIONAL_PARTS = ()
IGNORED = {"model.vision_tower.{}": "read as the part vision", **decoder.STORED_TABLES}


class Own(Backbone):
    PARTS: ClassVar = PARTS
    KEYS: ClassVar = {"model.mm_projector.{}": "connector.{}", **Backbone.KEYS}
    CONNECTOR_KEYS: ClassVar = {"model.mm_projector.{}": "connector.{}"}

    def __init__(self, name, config, vision):
        llama = decoder.build_llama(config, where=name)
        super().__init__(name, VARIANTS["small"], llama, config)
        self.vision = ClipTower(vision["vision_config"], select_layer=-2)
        width = config["hidden_size"]
        with torch.device("meta"):
            self.connector = nn.Sequential(
                nn.Linear(self.vision.width, width), nn.GELU(), nn.Linear(width, width)
            )
        self.num_image_tokens = -(-self.vision.num_patches // 3)
        self.preprocessing = Preprocessing(image_size=self.vision.image_size, squash=True)

    def preprocess(self, image):
        return self.preprocessing(image)

    def features(self, pixels):
        return self.vision(pixels)[:, 1::3]

    def connect(self, features, instructions):
        return self.connector(features)


def from_original(files, *, variant, dtype, device, quantization):
    places = checkpoint.locate_parts("own/small", files, PARTS)
    folder, clip = places["language_model"], places["vision"]
    config, vision = (checkpoint.read_json(p / "config.json") for p in (folder, clip))
    backbone = Own("own/small", config, vision)
    backbone.tokenizer, backbone.files = LlamaTokenizer(folder), places
    checkpoint.quantise(backbone.language_model, quantization, dtype=dtype)
    to = {"dtype": dtype, "device": device}
    read = nn.ModuleDict({n: getattr(backbone, n) for n in ("language_model", "connector")})
    sources = checkpoint.weight_files(folder, what="language_model")
    checkpoint.fill(read, sources, keys=Own.KEYS, ignored=IGNORED, **to)
    sources, ignored = checkpoint.weight_files(clip, what="vision"), clip_ignored(backbone.vision)
    checkpoint.fill(backbone.vision, sources, keys=CLIP_KEYS, ignored=ignored, **to)
    return backbone
'''


@pytest.fixture
def own(own_plugins, tiny_files):
    assert len(OWN.splitlines()) < 90
    own_plugins("backbones", "own", OWN)
    return backbones.load("own/small", tiny_files, dtype="float32", device="cpu")


def test_it_stands_beside_the_others(own):
    assert {"own", "llava"} <= {*plugins.available("hadpo.backbones")}
    assert backbones.sizes("own/small").image_tokens == own.num_image_tokens == 2
    assert backbones.prompts("own/small").train.text.startswith("<s><image>Q:")
    assert not own.training and not any(p.requires_grad for p in own.parameters())
    with pytest.raises(BadInput, match=r"no variant 'large' of own; known: small"):
        backbones.load("own/large", {})
    with pytest.raises(BadInput, match="own/small: files need language_model: folder of a LLaVA"):
        backbones.load("own/small", {})
    with pytest.raises(BadInput, match="unknown part 'eyes'"):
        backbones.load("own/small", {"eyes": "x"})


def test_it_answers(own, tiny_pairs):
    image = tiny_pairs[0].image
    question = Question(
        question_id="q", benchmark="b", split="s", image_id="0", image=image, text="Who is it?"
    )
    decoding = Decoding(name="greedy", max_new_tokens=5)
    (answer,) = generate(own, [question], decoding, model="base")
    assert 1 <= answer.tokens <= 5
    with Image.open(image) as picture:
        tokens = own.image_tokens(own.preprocess(picture)[None])
    assert tokens.shape == (1, 2, 32)


@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_it_trains(own, tiny_pairs, objective):
    """Its adapter on pairs; its connector, too, on instructions."""
    before = {name: value.clone() for name, value in own.state_dict().items()}
    settings = TrainConfig(steps=2, batch_pairs=2, lora_rank=2, learning_rate=1e-2)
    records = tiny_pairs
    if objective == "sft":
        settings = replace(settings, objective="sft", trained="adapter+connector")
        records = [
            Instruction(
                instruction_id=pair.pair_id,
                image_id=pair.image_id,
                image=pair.image,
                instruction=pair.instruction,
                answer=pair.chosen,
                kind="positive",
                source="test",
            )
            for pair in tiny_pairs
        ]
    steps = list(trainer.steps(own, records, settings, objective=objective))
    assert len(steps) == 2 and all(step.metrics["grad_norm"] for step in steps)
    adapted = {name: value for name, value in own.state_dict().items() if "lora_B" in name}
    assert adapted and all(value.any() for value in adapted.values())
    changed = {n for n, v in own.state_dict().items() if n in before and not v.equal(before[n])}
    connector = {n for n in before if n.startswith("connector.")}
    assert changed == (connector if objective == "sft" else set())


def test_what_it_saves_it_reads(own, tmp_path):
    own.connector[0].weight.data += 0.5
    own.language_model.lm_head.weight.data += 0.5
    own.save_original(tmp_path / "saved", dtype=torch.float32)
    files = own.files_with(tmp_path / "saved")
    again = backbones.load("own/small", files, dtype="float32", device="cpu")
    expected = own.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
