from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hadpo.data.pope import SPLITS, pope_questions
from hadpo.records import BadInput

NAMES = ("apple", "boat", "cup", "dog", "egg", "fork", "gull", "hat")
WORLDS = st.dictionaries(
    st.integers(1, 99).map(str), st.lists(st.sampled_from(NAMES), max_size=6), max_size=6
)


def ask(objects, split, seed=1, **rest):
    paths = {key: f"{key}.png" for key in objects}
    return pope_questions(objects, split=split, seed=seed, image_paths=paths, **rest)


@given(WORLDS, st.integers(0, 3))
def test_labels_are_true_balanced_and_positives_shared(objects, seed):
    positives = []
    for split in SPLITS:
        questions = ask(objects, split, seed)
        assert [q.label for q in questions] == ["yes", "no"] * (len(questions) // 2)
        for q in questions:
            [name] = [n for n in NAMES if f" {n} " in q.text]
            assert (name in objects[q.image_id]) == (q.label == "yes")
        assert len({(q.image_id, q.text) for q in questions}) == len(questions)
        positives.append([(q.image_id, q.text) for q in questions if q.label == "yes"])
    assert positives[0] == positives[1] == positives[2]


OBJECTS = {
    "1": ["cup", "fork"],
    "2": ["cup", "fork", "egg"],
    "3": ["cup", "fork", "egg"],
    "4": ["dog", "gull", "boat"],
    "5": ["dog", "gull", "hat"],
    "6": ["dog", "apple"],
    "7": ["dog"],
}


def negatives(split, image, **rest):
    questions = ask(OBJECTS, split, **rest)
    return [q.text for q in questions if q.image_id == image and q.label == "no"]


def test_popular_asks_for_the_most_frequent_and_adversarial_for_companions():
    # "dog" is the most frequent object that image 1 lacks; "egg" goes with its cup and fork
    assert negatives("popular", "1", per_image=1) == ["Is there a dog in the image?"]
    assert negatives("adversarial", "1", per_image=1) == ["Is there an egg in the image?"]
    assert negatives("adversarial", "7", per_image=1) == ["Is there a gull in the image?"]


def test_random_follows_the_seed_and_asks_three_of_each():
    per_image = Counter(q.image_id for q in ask(OBJECTS, "random"))
    assert per_image == {"1": 4, "2": 6, "3": 6, "4": 6, "5": 6, "6": 4, "7": 2}
    draws = [tuple(negatives("random", "7", seed=seed, per_image=3)) for seed in range(20)]
    assert len(set(draws)) > 3 and draws[3] == tuple(negatives("random", "7", seed=3))


def test_unknown_split_is_refused():
    with pytest.raises(BadInput, match="did you mean 'adversarial'"):
        ask(OBJECTS, "adversary")
