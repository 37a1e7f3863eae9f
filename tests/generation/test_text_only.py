"""Questions without an image: their prompt, their answers, and those of the images beside them."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from hadpo import backbones, config
from hadpo.figures.cards import contact_sheet
from hadpo.generation import Decoding, generate
from hadpo.records import BadInput, Question

TEXTS = ("Is there a kite at the beach?", "What color is a cup?")
GREEDY = Decoding(name="greedy", max_new_tokens=6)
BEAMS = Decoding(name="beams", max_new_tokens=6, beams=3)
PROMPTS = {
    "mini/llava": "USER: Is there a kite at the beach? ASSISTANT:",
    "mini/minigpt4": "[INST] Is there a kite at the beach? [/INST]",
    "mini/mplug-owl": "\nHuman: Is there a kite at the beach?\nAI:",
}


def load(name):
    torch.set_num_threads(1)
    recipe = config.load_recipe(name)
    return backbones.load_for(recipe, backbones.files_of(recipe, config.resolve_path))


def ask(key, text, image=""):
    return Question(
        question_id=key, benchmark="b", split="s", image_id=key, image=str(image), text=text
    )


@pytest.mark.parametrize("name", PROMPTS)
def test_the_language_model_alone_answers(name, tmp_path):
    backbone = load(name)
    Image.new("RGB", (96, 96), "red").save(tmp_path / "red.png")
    blind = [ask(f"t{number}", text) for number, text in enumerate(TEXTS)]
    seen = [ask("i1", TEXTS[0], tmp_path / "red.png"), ask("i2", TEXTS[1], tmp_path / "red.png")]
    ids = backbone.text_ids(TEXTS[0], prompt="evaluate")
    assert backbone.decode(ids).rstrip().endswith(PROMPTS[name])
    assert min(ids) >= 0
    for decoding in (GREEDY, BEAMS):
        run = {"model": "base", "batch_questions": 8}
        alone = {a.question_id: a for a in generate(backbone, seen, decoding, **run)}
        mixed = [blind[0], *seen, blind[1]]
        together = {a.question_id: a for a in generate(backbone, mixed, decoding, **run)}
        exact = {a.question_id: a for a in generate(backbone, mixed, decoding, exact=True, **run)}
        assert together == exact
        assert {key: together[key] for key in alone} == alone
        for question in blind:
            prompt = torch.tensor([backbone.text_ids(question.text, prompt="evaluate")])
            out = backbone.language_model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=decoding.max_new_tokens,
                num_beams=decoding.beams,
                do_sample=False,
                eos_token_id=backbone.end_id,
                pad_token_id=backbone.end_id,
            )[0, prompt.shape[1] :].tolist()
            said = backbone.decode(out[: together[question.question_id].tokens]).strip()
            assert together[question.question_id].text == said


def test_a_family_that_needs_an_image_says_so():
    backbone = load("mini/instructblip")
    with pytest.raises(BadInput, match=r"instructblip.*answers questions about images only"):
        list(generate(backbone, [ask("1", "Why?")], GREEDY, model="base"))


def test_a_missing_image_is_still_an_error(tmp_path):
    with pytest.raises(BadInput, match="1 image files are missing"):
        gone = replace(ask("1", "Why?"), image=str(tmp_path / "gone.png"))
        list(generate(load("mini/llava"), [ask("2", "Why?"), gone], GREEDY, model="base"))


def test_a_card_of_a_question_without_an_image_is_white():
    sheet = contact_sheet(["", ""], ["a", "b"], title="none")
    assert sheet is not None
