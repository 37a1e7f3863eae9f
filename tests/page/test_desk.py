"""What the page's functions make of what a visitor sends, also by a program of one's own."""

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the page's extra is absent: pip install -e '.[page]'")

import gradio as gr

from hadpo import mini
from hadpo.page.app import LONGEST_QUESTION, Desk
from hadpo.page.shelf import ANYWHERE

pytestmark = pytest.mark.extra
EXHIBITS = mini.gallery(2)


class Speaker:
    """Answers with the question, word by word, and remembers how it was asked."""

    takes_images = takes_more = True

    def __init__(self):
        self.asked = []

    def answer(self, turns, decoding):
        self.asked.append((turns[-1].instruction, decoding))
        yield turns[-1].instruction, True


@pytest.fixture
def desk():
    speaker = Speaker()
    judge = SimpleNamespace(rule=lambda case: [])
    shelf = SimpleNamespace(exhibits=EXHIBITS, judge=lambda: judge, words=None)
    made = Desk((speaker, speaker), shelf)
    return made, made.new_talk(), speaker


@pytest.mark.parametrize("question", [None, "", " \n\t "])
def test_no_question_is_asked_for(desk, question):
    made, talk, speaker = desk
    with pytest.raises(gr.Error, match="Type a question first, or choose one"):
        next(made.ask(talk, question, "greedy", 0, 8, False))
    assert talk.exchanges == speaker.asked == []


def test_a_question_is_cut_where_the_page_cuts_it(desk):
    made, talk, speaker = desk
    next(made.ask(talk, "a" * 9999, "sampled", 7, 8, False))
    question, decoding = speaker.asked[0]
    assert question == "a" * LONGEST_QUESTION
    assert (decoding.seed, decoding.temperature, decoding.max_new_tokens) == (7, 1.0, 8)


@pytest.mark.parametrize("place", [-1, 2, 10**30, None, "0", 1.0, [0], [0, 1]])
def test_a_picture_that_is_not_in_the_gallery_is_refused(desk, place):
    made, talk, _ = desk
    before = talk.picture
    with pytest.raises(gr.Error, match="There is no such picture"):
        made.pick(talk, SimpleNamespace(index=place))
    assert talk.picture is before


def test_a_picture_of_the_gallery_comes_with_its_questions(desk):
    made, talk, _ = desk
    shown = made.pick(talk, SimpleNamespace(index=1))
    assert talk.picture.name == EXHIBITS[1].name
    assert [text for text, _ in shown[2].choices] == list(EXHIBITS[1].questions) != list(ANYWHERE)
