import pytest

from hadpo import classroom
from hadpo.classroom import WrongAnswer, check
from hadpo.config import load_recipe
from hadpo.records import BadInput, Metric
from hadpo.trainer import order


@pytest.mark.parametrize(
    ("answer", "right"),
    [(3, 3), (3.0, 3), (0.694, 0.6931), ("Hat ", "hat"), (True, True)],
)
def test_a_right_answer_is_praised(answer, right):
    assert "Right" in check(answer, right, hint="h", within=0.001)._repr_markdown_()


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (4, 3),
        ("3", 3),
        (True, 1),
        (0.68, 0.6931),
        ("cap", "hat"),
        (False, True),
        (1, True),
        (0, ""),
    ],
)
def test_a_wrong_one_stops_with_a_hint_and_without_the_answer(answer, right):
    with pytest.raises(WrongAnswer) as error:
        check(answer, right, hint="look again", within=0.001)
    assert "look again" in str(error.value)
    assert f"{right!r} is" not in str(error.value)


def test_no_answer_yet_lets_the_notebook_go_on():
    assert "No answer yet" in check(None, 3, hint="h").text


@pytest.mark.parametrize("knows", classroom.FEEDBACK)
def test_what_the_feedback_knows_sets_pairs_and_control(knows):
    settings = classroom.feedback(knows, images=24, tested=6, steps=4)
    source, control = classroom.FEEDBACK[knows]
    found = {s: load_recipe("mini/llava", dict(v), stage=s) for s, v in settings.items()}
    assert found["prepare"].prepare.pair_source == source
    train = found["train"].train
    order.check(train)
    assert (train.controls, train.steps, train.control_learning_rate) == (control, 4, "")
    assert found["evaluate"].evaluate.models == f"base,merged,{control}"


def test_feedback_that_nobody_gives_is_refused():
    with pytest.raises(BadInput, match="knows: found 'rank'; did you mean 'ranks'"):
        classroom.feedback("rank", images=24, tested=6, steps=4)


def test_the_best_is_the_trained_model_with_the_highest_f1():
    values = {"base": 0.99, "merged": 0.7, "sft": 0.8}
    key = {"benchmark": "claims", "split": "val", "n": 1}
    metrics = [Metric(name="f1", model=m, value=v, **key) for m, v in values.items()]
    metrics += [Metric(name="precision", model="merged", value=0.9, **key)]
    assert classroom.best_of(metrics) == "sft"
