"""What the tests of training share: settings, a training in one call, comparing adapters."""

from collections.abc import Callable

import pytest

from hadpo.config import TrainConfig


@pytest.fixture(scope="session")
def fast() -> TrainConfig:
    """Settings under which the tiny model learns in a few updates."""
    return TrainConfig(
        learning_rate=1e-3,
        batch_pairs=4,
        micro_batch_pairs=2,
        lora_rank=4,
        lora_alpha=8.0,
        max_length=512,
        epochs=1.0,
    )


@pytest.fixture(scope="session")
def weights() -> Callable:
    """A copy of a backbone's adapter."""
    from hadpo import adapter

    return lambda backbone: {key: v.clone() for key, v in adapter.state(backbone).items()}


@pytest.fixture(scope="session")
def learn(weights: Callable) -> Callable:
    """Metrics of all updates, and the adapter that they made."""
    from hadpo import trainer

    def run(backbone, pairs, config, **arguments):
        return list(trainer.steps(backbone, pairs, config, **arguments)), weights(backbone)

    return run


@pytest.fixture(scope="session")
def equal() -> Callable:
    """Whether two tables of tensors are equal, bit for bit."""
    import torch

    def same(a, b):
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    return same


GOLDEN = {  # recorded case -> name of the backbone, and which file is which part
    "llava": (
        "llava/1.5-7b",
        {"language_model": "checkpoint/llava-v1.5-tiny", "vision": "checkpoint/clip-vit-tiny"},
    ),
    "mplug_owl": (
        "mplug_owl/llama-7b",
        {"language_model": "checkpoint/mplug-owl-llama-tiny"},
    ),
}
RECORDED = ("llava", "mplug_owl", "minigpt4_llama2", "minigpt4_vicuna0", "instructblip_vicuna")


@pytest.fixture(scope="session")
def golden_files(shared, tmp_path_factory) -> Callable:
    """Name and parts of a recorded checkpoint."""
    import json

    from tests.backbones.eva.conftest import links

    made = {}

    def find(case: str):
        folder = shared / "golden" / case / "a"
        if case in GOLDEN:
            name, parts = GOLDEN[case]
            return name, {part: folder / place for part, place in parts.items()}
        if case not in made:
            meta = json.loads((folder / "meta.json").read_text())
            made[case] = links(folder, tmp_path_factory.mktemp(case), meta)
        name, files = made[case]
        if name.startswith("instructblip"):
            files["bert"] = shared / "golden" / "tokenizers" / "bert_tiny"
        return name, files

    return find


@pytest.fixture(scope="session")
def golden(golden_files) -> Callable:
    """A recorded checkpoint as a fresh backbone on the CPU."""
    import torch

    from hadpo import backbones

    def load(case: str, dtype: str = "float32", **changed):
        name, files = golden_files(case)
        first = "float32" if dtype == "float64" else dtype
        backbone = backbones.load(name, {**files, **changed}, dtype=first, device="cpu")
        return backbone.to(torch.float64) if dtype == "float64" else backbone

    return load


@pytest.fixture(scope="session")
def tiny_instructions(tmp_path_factory) -> list:
    """Ten instructions, all different, about three pictures; answers of many lengths."""
    import numpy
    from PIL import Image

    from hadpo.records import Instruction
    from tests.conftest import SENTENCES

    random = numpy.random.default_rng(1)
    folder = tmp_path_factory.mktemp("instructed")
    for i, size in enumerate([(40, 30), (28, 28), (21, 50)]):
        values = random.integers(0, 256, (size[1], size[0], 3), numpy.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")
    words = (SENTENCES[2] + " " + SENTENCES[4]).split()
    return [
        Instruction(
            instruction_id=f"i-{k}",
            image_id=str(k % 3),
            image=str(folder / f"{k % 3}.png"),
            instruction=" ".join(["Describe", *words[k:][: 1 + k % 4]]) + "?",
            answer=" ".join(words[: 1 + (5 * k) % 13]) + ".",
            kind="positive" if k % 2 else "negative",
            source="a.json" if k < 6 else "b.json",
            weight=1.0 + 0.5 * (k % 3),
        )
        for k in range(10)
    ]
