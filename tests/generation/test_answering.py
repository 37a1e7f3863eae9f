"""Batched answers against one question at a time, and against transformers' own generate."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from hadpo import backbones
from hadpo.generation import Decoding, generate
from hadpo.generation.decoding import penalised, sampled
from hadpo.records import BadInput, Question

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
CHECKPOINT = SHARED / "golden" / "llava" / "a" / "checkpoint"

TEXTS = (
    "Is there a cup in the image?",
    "Is there a dining table in the image?",
    "Describe this image in detail.",
    "What is it?",
    "Could you describe the contents of this image for me?",
)

END = 1.7  # how loud the end marker is: some answers stop, some reach the limit


@pytest.fixture(scope="module")
def backbone():
    torch.set_num_threads(1)
    if not CHECKPOINT.is_dir():
        pytest.skip(f"no {CHECKPOINT}")
    files = {
        "language_model": CHECKPOINT / "llava-v1.5-tiny",
        "vision": CHECKPOINT / "clip-vit-tiny",
    }
    found = backbones.load("llava/1.5-7b", files, dtype="float32", device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        # Random weights never stop and hardly look at the image: make both matter.
        head = found.language_model.lm_head.weight
        head.mul_(12)
        head[found.end_id] = END * head[5:].norm(dim=1).mean() * torch.randn(head.shape[1]) / 8
        for parameter in found.connector.parameters():
            parameter.mul_(3)
    return found


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draw = random.Random(0)
    found = []
    for number in range(4):
        path = folder / f"{number}.png"
        noise = bytes(draw.randrange(256) for _ in range(40 * 30 * 3))
        Image.frombytes("RGB", (40, 30), noise).resize((200, 150)).save(path)
        found += [ask(path, text, n) for n, text in enumerate(TEXTS[: 2 + number])]
    return found


def ask(path, text, number, split="random"):
    return Question(
        question_id=f"{split}-{path.stem}-{number}",
        benchmark="pope",
        split=split,
        image_id=path.stem,
        image=str(path),
        text=text,
    )


GREEDY = Decoding(name="greedy", max_new_tokens=16)
DECODINGS = {
    "greedy": GREEDY,
    "penalty": Decoding(name="penalty", max_new_tokens=16, repetition_penalty=1.5),
    "sampled": Decoding(name="sampled", max_new_tokens=16, temperature=0.7, seed=3),
    "beams": Decoding(name="beams", beams=5, max_new_tokens=16),
    "beams, penalties": Decoding(
        name="b", beams=3, max_new_tokens=12, repetition_penalty=1.5, length_penalty=0.5
    ),
}
every_decoding = pytest.mark.parametrize("name", DECODINGS)


def run(backbone, questions, decoding, **rest):
    rest = {"model": "base", "batch_questions": 6} | rest
    return list(generate(backbone, questions, decoding, **rest))


def reference(backbone, question, decoding, prompt="evaluate"):
    """One question with transformers' generate, fed by embeddings as the originals do."""
    ids = backbone.expand(backbone.prompt_ids(question.text, prompt=prompt))
    with Image.open(question.image) as image:
        pixels = backbone.preprocess(image)[None]
    tokens = backbone.image_tokens(pixels, [question.text])
    embeds = backbone.embed(torch.tensor([ids]), tokens)
    out = backbone.language_model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.beams,
        do_sample=False,
        repetition_penalty=decoding.repetition_penalty,
        length_penalty=decoding.length_penalty,
        eos_token_id=backbone.end_id,
        pad_token_id=backbone.end_id,
        use_cache=True,
    )
    found = out[0].tolist()
    return found[: found.index(backbone.end_id) + 1] if backbone.end_id in found else found


@every_decoding
def test_batched_answers_equal_one_by_one(backbone, questions, name):
    together = run(backbone, questions, DECODINGS[name])
    alone = [a for q in questions for a in run(backbone, [q], DECODINGS[name], batch_questions=1)]
    assert together == alone
    assert len({a.text for a in together}) > 5  # the images and the questions matter
    assert {a.question_id for a in together} == {q.question_id for q in questions}


@pytest.mark.parametrize("name", [n for n in DECODINGS if n != "sampled"])
def test_answers_equal_those_of_transformers(backbone, questions, name):
    decoding = DECODINGS[name]
    answers = {a.question_id: a for a in run(backbone, questions, decoding)}
    ends = Counter()
    for question in questions:
        ids = reference(backbone, question, decoding)
        answer = answers[question.question_id]
        assert (answer.text, answer.tokens) == (backbone.decode(ids).strip(), len(ids))
        assert (answer.finish == "stop") == (ids[-1] == backbone.end_id)
        ends[answer.finish] += 1
    assert set(ends) == {"stop", "length"}, f"both ends must be tried, found {ends}"


def test_an_image_is_seen_once_and_its_prompt_read_once(backbone, questions, monkeypatch):
    seen = Counter()
    prefill, features = backbone.prefill, backbone.features

    def counted_prefill(ids, tokens=None):
        seen["prefilled"] += len(ids)
        return prefill(ids, tokens)

    def counted_features(pixels):
        seen["images"] += len(pixels)
        return features(pixels)

    monkeypatch.setattr(backbone, "prefill", counted_prefill)
    monkeypatch.setattr(backbone, "features", counted_features)
    shuffled = random.Random(1).sample(questions, len(questions))
    run(backbone, shuffled, GREEDY, batch_questions=3)  # fewer than one image has questions
    assert seen == {"prefilled": 4, "images": 4}


@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_the_backbone_says_where_an_answer_ends(backbone, questions, monkeypatch, name):
    """Some families end with a text, whose marker has several tokens and spellings."""
    plain = run(backbone, questions, DECODINGS[name])
    longest = max(plain, key=lambda answer: answer.tokens)

    def ends(ids):
        return (ids[..., -1] == backbone.end_id) | (ids[..., -2:].sum(-1) % 2 == 0)

    monkeypatch.setattr(backbone, "ends", ends)
    answers = {a.question_id: a for a in run(backbone, questions, DECODINGS[name])}
    assert answers[longest.question_id].tokens < longest.tokens
    assert {a.finish for a in answers.values()} == {"stop"}


def test_repeated_questions_are_answered_once_for_all_splits(backbone, questions, monkeypatch):
    path = Path(questions[0].image)
    asked = [ask(path, TEXTS[0], 7, split) for split in ("random", "popular", "adversarial")]
    rows = []
    extend = backbone.extend
    monkeypatch.setattr(backbone, "extend", lambda s, ids: rows.append(len(ids)) or extend(s, ids))
    answers = run(backbone, asked, GREEDY)
    assert set(rows) == {1}
    assert [a.split for a in answers] == ["random", "popular", "adversarial"]
    assert len({a.text for a in answers}) == 1


def test_image_tokens_that_depend_on_the_question_are_not_shared(backbone, questions, monkeypatch):
    def connect(features, instructions):
        tokens = backbone.connector(features)
        shift = [float(len(text)) / 10 for text in instructions]
        return tokens + torch.tensor(shift)[:, None, None] if shift else tokens

    monkeypatch.setattr(type(backbone), "image_tokens_depend_on_instruction", True)
    monkeypatch.setattr(backbone, "connect", connect)
    answers = {a.question_id: a for a in run(backbone, questions, GREEDY, batch_questions=3)}
    for question in questions[::3]:
        ids = reference(backbone, question, GREEDY)
        assert answers[question.question_id].text == backbone.decode(ids).strip()


def test_a_rerun_skips_what_is_done(backbone, questions):
    done = {q.question_id for q in questions[:-2]}
    answers = run(backbone, questions, GREEDY, done=done)
    assert [a.question_id for a in answers] == [q.question_id for q in questions[-2:]]
    assert run(backbone, questions, GREEDY, done={q.question_id for q in questions}) == []


def test_the_prompt_can_be_chosen(backbone, questions):
    question = questions[2]
    for prompt in ("train", "evaluate"):
        [answer] = run(backbone, [question], GREEDY, prompt=prompt)
        ids = reference(backbone, question, GREEDY, prompt)
        assert answer.text == backbone.decode(ids).strip()


def test_missing_images_are_listed_before_anything_is_generated(backbone, questions, tmp_path):
    gone = [ask(tmp_path / f"gone{n}.png", TEXTS[0], n) for n in range(2)]
    with pytest.raises(BadInput, match=r"2 image files are missing: .*gone0\.png, .*gone1\.png"):
        next(generate(backbone, [*questions, *gone], GREEDY, model="base"))
    broken = tmp_path / "broken.png"
    broken.write_text("<html>")
    with pytest.raises(BadInput, match=r"broken\.png: no readable image"):
        run(backbone, [ask(broken, TEXTS[0], 0)], GREEDY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beams": 0},
        {"max_new_tokens": 0},
        {"max_new_tokens": 10**9},
        {"beams": 10**6},
        {"temperature": -1.0},
        {"beams": 2, "temperature": 0.5},
        {"repetition_penalty": 0.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(BadInput, match="decoding 'x'"):
        Decoding(name="x", **wrong)


def test_a_batch_needs_a_question(backbone, questions):
    with pytest.raises(BadInput, match="batch_questions is 0"):
        run(backbone, questions, GREEDY, batch_questions=-1)


def test_penalty_by_hand():
    scores = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    generated = torch.tensor([[0, 0], [1, 1]])
    expected = torch.tensor([[1.0, -2.0, 1.0], [2.0, -4.0, 1.0]])
    decoding = Decoding(name="penalty", repetition_penalty=2.0)
    torch.testing.assert_close(penalised(scores, generated, decoding), expected)


def test_sampling_follows_the_shares():
    scores = torch.tensor([[0.0, 1.0, 2.0]]).expand(4000, 3)
    draws = [torch.Generator().manual_seed(n) for n in range(4000)]
    found = sampled(scores / 0.5, draws)
    shares = (torch.tensor([0.0, 1.0, 2.0]) / 0.5).softmax(dim=0)
    counts = torch.bincount(found, minlength=3) / 4000
    assert (counts - shares).abs().max() < 0.02


def test_samples_differ_by_seed_and_not_by_run(backbone, questions):
    def texts(seed):
        decoding = Decoding(name="s", max_new_tokens=12, temperature=1.0, seed=seed)
        return [a.text for a in run(backbone, questions, decoding)]

    assert texts(1) == texts(1) != texts(2)


def test_exact_answers_are_the_same_and_the_stop_gives_their_beginnings(backbone, questions):
    expected = {a.question_id: a for a in run(backbone, questions, GREEDY)}
    alone = {a.question_id: a for a in run(backbone, questions, GREEDY, exact=True)}
    assert alone == expected
    letters = "".join(a.text[1:-1] for a in expected.values())
    character = Counter(c for c in letters if c.isascii() and c.isprintable()).most_common(1)[0][0]
    stop = Decoding(name="stop", max_new_tokens=16, stop_at=character)
    for answer in run(backbone, questions, stop):
        whole = expected[answer.question_id]
        assert whole.text.startswith(answer.text)
        assert answer.text.partition(character)[0] == whole.text.partition(character)[0]
        assert answer.tokens < whole.tokens or character not in whole.text
