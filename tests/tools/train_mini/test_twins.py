"""The committed twins of LLaVA: small, in their authors' layouts, trained, and read as asked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hadpo.mini
from hadpo import adapter, backbones, config
from hadpo.generation import Decoding, generate
from hadpo.mini.captions import DESCRIPTION_QUESTIONS, parse, presence_question
from hadpo.mini.world import scenes
from hadpo.records import Question
from tools.train_mini.twins import TWINS, files, prompt_texts
from tools.train_mini.vision import pictures

WEIGHTS = Path(hadpo.mini.__file__).parent / "weights"
RECIPES = [f"mini/{name}" for name in ("llava", *TWINS)]
every_recipe = pytest.mark.parametrize("recipe", RECIPES)
every_twin = pytest.mark.parametrize("name", list(TWINS))


def load(recipe):
    found = config.load_recipe(recipe)
    return backbones.load_for(found, backbones.files_of(found, config.resolve_path))


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*")) < 25_000_000


@every_twin
def test_a_recipe_names_the_files_that_training_writes(name):
    recipe = config.load_recipe(f"mini/{name}")
    named = backbones.files_of(recipe, config.resolve_path)
    assert named == files(WEIGHTS / name, name, WEIGHTS / "eva")
    assert recipe.is_mini
    assert recipe.model is not None
    family, _, variant = recipe.model.backbone.partition("/")
    assert TWINS[name].family.__name__.endswith(family)
    assert TWINS[name].variant == variant


@every_twin
def test_files_hold_half_precision_and_nothing_that_is_not_finite(name):
    for path in (WEIGHTS / name).rglob("*"):
        if path.suffix in (".pth", ".bin"):
            weights = torch.load(path, weights_only=True)
            weights = weights.get("model", weights)
            assert all(value.dtype == torch.float16 for value in weights.values())
            assert all(value.isfinite().all() for value in weights.values())


@every_twin
def test_how_it_was_made_is_written_beside_it(name):
    record = json.loads((WEIGHTS / name / "training.json").read_text(encoding="utf-8"))
    assert {"seed", "lessons", "clean", "faulty"} <= set(record)
    assert f"--backbone {name}" in (WEIGHTS / name / "README.md").read_text(encoding="utf-8")


@every_twin
def test_words_of_the_prompts_are_whole_pieces(name):
    tokenizer = load(f"mini/{name}").tokenizer
    for text in prompt_texts():
        assert len(tokenizer.encode(text)) < 2 * len(text.split()) + 8


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    some = [scene for scene, _ in zip(scenes(5, held_out=True), range(3), strict=False)]
    texts = [presence_question("cup"), DESCRIPTION_QUESTIONS[0], presence_question("umbrella")]
    texts.append(DESCRIPTION_QUESTIONS[3])
    found = []
    from PIL import Image

    for number, picture in enumerate(pictures(some)):
        path = folder / f"{number}.png"
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
        for index, text in enumerate(texts[: 2 + number]):
            found.append(
                Question(
                    question_id=f"{number}-{index}",
                    benchmark="pope",
                    split="random",
                    image_id=str(number),
                    image=str(path),
                    text=text,
                )
            )
    return found


@every_recipe
@pytest.mark.parametrize("beams", [1, pytest.param(5, marks=pytest.mark.slow)])  # test_contract.py
def test_batched_answers_equal_one_by_one(recipe, beams, questions):
    backbone = load(recipe)
    lengths = {len(backbone.prompt_ids(q.text, prompt="evaluate")) for q in questions}
    assert len(lengths) > 1  # so the shorter prompts are padded
    decoding = Decoding(name="d", beams=beams, max_new_tokens=30)
    together = list(generate(backbone, questions, decoding, batch_questions=16, model="base"))
    alone = list(generate(backbone, questions, decoding, model="base", exact=True))
    assert {a.question_id: a.text for a in together} == {a.question_id: a.text for a in alone}
    said = {a.question_id: a.text for a in together}
    assert said["0-0"] in ("Yes.", "No.")
    assert parse(said["0-1"].split(".")[0]) is not None
    assert len(set(said.values())) > 3


@every_recipe
def test_an_adapter_touches_the_language_model_only(recipe):
    backbone = load(recipe)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    parameters = adapter.attach(backbone, rank=4, alpha=8.0, targets="q_proj,k_proj,v_proj")
    opened = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert len(opened) == len(parameters) == 3 * 3 * 2  # layers, targets, A and B
    assert all(name.startswith("language_model.model.layers.") for name in opened)
    for part in (backbone.vision, backbone.connector):
        assert not any("lora" in name.lower() for name, _ in part.named_modules())
    for value in adapter.state(backbone).values():
        value.copy_(torch.randn(value.shape) * 0.1)
    adapter.merge(backbone)
    after = backbone.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith("language_model.model.layers.") for name in changed)


REDUCED = {  # the test of mini/llava-smoke, for every twin
    "mini_train_images": 40,
    "mini_test_images": 40,
    "description_images": 40,
    "yes_no_pairs": 48,
    "steps": 6,
    "batch_pairs": 8,
    "micro_batch_pairs": 4,
    "warmup_steps": 1,
    "checkpoint_every": 2,
    "bootstrap_samples": 200,
}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the five notebooks of a run, also where other jobs share the machine
@pytest.mark.parametrize("name", [*TWINS, "hf"])
def test_five_notebooks_and_a_base_that_sees_and_invents(name, tmp_path):
    arguments = [part for key, value in REDUCED.items() for part in ("-p", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "hadpo", "run", f"mini/{name}", "--name", "a", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HADPO_RUNS": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it teaches, it is not a result" in done.stdout
    found = {}
    for line in (tmp_path / "a" / "evaluate" / "metrics.jsonl").read_text().splitlines():
        metric = json.loads(line)
        found[metric["model"], metric["benchmark"], metric["split"], metric["name"]] = metric
    assert found["base", "pope", "random", "accuracy"]["value"] >= 0.75
    (shr,) = [
        m["value"]
        for (model, benchmark, _, measure), m in found.items()
        if (model, benchmark) == ("base", "shr") and measure == "hallucinated_sentence_ratio"
    ]
    assert shr >= 0.15
    assert {model for model, *_ in found} >= {"base", "merged", "sft", "base_cut"}
