import pytest
from PIL import Image

from hadpo.generation import Decoding, Turn, generate, stream
from hadpo.records import BadInput, Question

GREEDY = Decoding(name="greedy", max_new_tokens=12)


def last(steps):
    return list(steps)[-1][0]


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(name="s", max_new_tokens=8, seed=3)])
def test_the_last_words_are_those_that_generate_chooses(tiny_llava, tiny_pairs, decoding):
    backbone, pair = tiny_llava(), tiny_pairs[0]
    question = Question(
        question_id="q", benchmark="b", split="s", image_id="0", image=pair.image, text="Who is it?"
    )
    (expected,) = generate(backbone, [question], decoding, model="m")
    with Image.open(pair.image) as image:
        found = list(stream(backbone, [Turn("Who is it?", image)], decoding))
    assert found[-1][0] == expected.text
    assert len(found) == expected.tokens
    assert found[-1][1] == (expected.finish == "stop")


def test_a_later_question_reads_what_was_said(tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    with Image.open(tiny_pairs[0].image) as image:
        first = Turn("Is there a dog?", image, "Yes, there is.")
        alone = last(stream(backbone, [Turn("And now?", image)], GREEDY))
        after = last(stream(backbone, [first, Turn("And now?")], GREEDY))
        again = last(stream(backbone, [first, Turn("And now?")], GREEDY))
    assert after == again != alone


def test_sampling_repeats_with_its_seed(tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    with Image.open(tiny_pairs[0].image) as image:
        said = [
            last(
                stream(
                    backbone,
                    [Turn("Who?", image)],
                    Decoding(name="s", temperature=1.0, seed=seed, max_new_tokens=12),
                )
            )
            for seed in (1, 1, 2)
        ]
    assert said[0] == said[1] != said[2]


def test_what_the_prompt_has_no_room_for_is_refused(tiny_llava, tiny_pairs):
    backbone = tiny_llava()
    with Image.open(tiny_pairs[0].image) as image:
        with pytest.raises(BadInput, match="needs an image"):
            next(stream(backbone, [Turn("Who?")], GREEDY))
        with pytest.raises(BadInput, match="several images"):
            next(stream(backbone, [Turn("Who?", image), Turn("Who?", image)], GREEDY))
        with pytest.raises(BadInput, match="too long"):
            next(stream(backbone, [Turn("Who? " * 400, image)], GREEDY))
        with pytest.raises(BadInput, match="beam"):
            next(stream(backbone, [Turn("Who?", image)], Decoding(name="b", beams=2)))
