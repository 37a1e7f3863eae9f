"""Browse POPE's answers: which object was said to be there and is not, in which split, by whom."""

import re
from collections.abc import Sequence
from functools import partial

from hadpo.explore.browser import Browser, Entry
from hadpo.explore.folders import folders_of
from hadpo.figures import Card, Column, Line, text_card
from hadpo.records import Answer, Question, read_jsonl
from hadpo.runs import Run
from hadpo.tables import model_title
from hadpo.text import yes_no_upstream

_OBJECT = re.compile(r"Is there an? (.+?) in the im")
_KINDS = {("yes", "no"): "false yes", ("no", "yes"): "false no"}


def browse_pope_errors(
    run: Run | str,
    *,
    models: Sequence[str] = ("base", "merged"),
    only_errors: bool = True,
    per_page: int = 3,
) -> Browser:
    """POPE's questions with what each model answered; with filters by object, split and error.

    Args:
        run: an evaluated run, open or by name.
        models: whose answers, in this order; "fixed" and "broken" compare the first and the last.
        only_errors: leave out what all models answered rightly.
        per_page: cards at a time.

    Raises:
        BadInput: no such run, or a broken file.
    """
    folders = folders_of(run)
    questions = {q.question_id: q for q in folders.questions("pope")}
    said: dict[str, dict[str, Answer]] = {}
    for answer in read_jsonl(folders.evaluated / "samples.jsonl", Answer):
        if answer.question_id in questions and answer.model in models:
            said.setdefault(answer.question_id, {})[answer.model] = answer
    entries = []
    for key, answers in said.items():
        shown = [answers[model] for model in models if model in answers]
        errors = [_error(questions[key], answer) for answer in shown]
        if any(errors) or not only_errors:
            entries.append(_entry(questions[key], shown, errors, is_mini=folders.is_mini))
    title = "questions with a wrong answer" if only_errors else "questions"
    return Browser(entries, title=title, per_page=per_page, is_mini=folders.is_mini)


def _error(question: Question, answer: Answer) -> str:
    """How an answer is wrong; "" if it is right."""
    return _KINDS.get((yes_no_upstream(answer.text), question.label or ""), "")


def _entry(
    question: Question, answers: Sequence[Answer], errors: Sequence[str], *, is_mini: bool
) -> Entry:
    found = _OBJECT.match(question.text)
    is_both = bool(errors[0] and errors[-1])
    outcome = "wrong in both" if is_both else "fixed" if errors[0] else "broken"
    if len(answers) == 1:
        outcome = "wrong"
    facets = {
        "object": found[1] if found else "another question",
        "split": question.split,
        "error": next(filter(None, errors), "none"),
        "outcome": outcome if any(errors) else "right",
    }
    draw = partial(_card, question, answers, errors, is_mini=is_mini)
    text = f"{question.image_id} {question.text}"
    return Entry(draw, facets, {"wrong answers": sum(map(bool, errors))}, text)


def _card(
    question: Question, answers: Sequence[Answer], errors: Sequence[str], *, is_mini: bool
) -> Card:
    columns = []
    for answer, error in zip(answers, errors, strict=True):
        words = [(word, False) for word in answer.text.split()]
        line = Line(words, "invented" if error else "true", error)
        columns.append(Column(model_title(answer.model), [line]))
    title = f"{question.text} The right answer: {question.label or 'unknown'}."
    note = f"Image {question.image_id}, split {question.split}. ✓ right; ✗ wrong."
    return text_card(question.image, columns, title=title, note=note, is_mini=is_mini)
