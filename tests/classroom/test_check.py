import pytest

from hadpo.classroom import WrongAnswer, check


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
