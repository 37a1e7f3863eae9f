"""Lessons with faults err in one direction only: they see what is not there."""

import random
from itertools import islice

from hadpo.mini.world import scenes
from tools.train_mini.lessons import presence_turn


def test_faulty_answers_say_yes_too_often_and_never_no_to_a_present_object():
    answers = {True: [], False: []}
    for number, scene in enumerate(islice(scenes(0, held_out=True), 1500)):
        question, answer = presence_turn(scene, random.Random(number), is_faulty=True)
        is_present = any(f" {name} " in question for name in scene.categories)
        answers[is_present].append(answer)
    assert set(answers[True]) == {"Yes."}
    assert 0.1 < answers[False].count("Yes.") / len(answers[False]) < 0.6
