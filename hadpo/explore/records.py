"""Pairs and instructions; answers of runs: descriptions side by side, POPE's errors."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hadpo import config
from hadpo.explore.browser import Browser, Entry
from hadpo.figures import Card, Column, Line, pair_card, plain, text_card, verdict_column
from hadpo.plugins import choices
from hadpo.records import Answer, BadInput, Instruction, Pair, Question, Verdict, read_jsonl
from hadpo.runs import Run, read_manifest, stage_folder
from hadpo.tables import model_title
from hadpo.text import yes_no_upstream


@dataclass(frozen=True)
class Folders:
    """The finished evaluation of a run, and the preparation that it read."""

    name: str
    evaluated: Path
    prepared: Path
    is_mini: bool

    def questions(self, benchmark: str) -> Iterator[Question]:
        """The questions of one benchmark."""
        every = read_jsonl(self.prepared / "questions.jsonl", Question)
        return (question for question in every if question.benchmark == benchmark)


def folders_of(run: Run | str) -> Folders:
    """The folders of a run, named or open.

    Raises:
        BadInput: no such run, or it was not evaluated.
    """
    name = run if isinstance(run, str) else run.name
    root = config.runs_folder() if isinstance(run, str) else run.root
    evaluated = root / name / "evaluate"
    manifest = read_manifest(evaluated)
    if manifest is None or not (evaluated / "samples.jsonl").is_file():
        known = [path.parents[1].name for path in root.glob("*/evaluate/samples.jsonl")]
        raise BadInput(f"no answers of a run {name!r} in {root}; {choices(name, known)}")
    prepared = stage_folder(root, name, "prepare", manifest.earlier)
    return Folders(name, evaluated, prepared, manifest.is_mini)


# Descriptions of one or several runs side by side: fixed, broken, still hallucinated.

Said = dict[tuple[str, str], list[Verdict]]  # run and model -> verdicts, sentence by sentence


def browse_answers(
    *runs: Run | str,
    models: Sequence[str] = ("base", "merged"),
    benchmark: str = "shr",
    per_page: int = 2,
) -> Browser:
    """Judged answers to the same questions, the answers of all runs and models beside each other.

    "fixed" are answers with a wrong sentence before tuning and none after it, "broken" the other
    way round; both compare the first and the last of the columns.

    Args:
        runs: evaluated runs, open or by name; those of other questions have other cards.
        models: which models' answers, in this order.
        benchmark: one whose sentences were judged.
        per_page: cards at a time.

    Raises:
        BadInput: no such run, or a broken file.
    """
    folders = [folders_of(run) for run in runs]
    questions: dict[tuple[str, str], Question] = {}
    said: dict[tuple[str, str], Said] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        own = {q.question_id: q for q in folder.questions(benchmark)}
        for verdict in read_jsonl(folder.evaluated / "verdicts.jsonl", Verdict):
            question = own.get(verdict.case_id)
            if question and verdict.model in models:
                place = (question.image_id, question.text)
                questions.setdefault(place, question)
                said[place][folder.name, verdict.model].append(verdict)
    order = [(folder.name, model) for folder in folders for model in models]
    entries = [
        _entry(question, {at: said[place][at] for at in order if at in said[place]}, len(runs) > 1)
        for place, question in questions.items()
    ]
    is_mini = any(folder.is_mini for folder in folders)
    return Browser(entries, title="judged answers", per_page=per_page, is_mini=is_mini)


def _entry(question: Question, said: Said, several: bool) -> Entry:
    """A card of what was said to a question, column by column, and of `several` runs."""
    counts = [sum(v.label == "hallucination" for v in verdicts) for verdicts in said.values()]
    first, last = counts[0], counts[-1]
    outcome = "hallucinated" if first else "right"
    if len(counts) > 1:
        outcomes = {(False, False): "right in both", (True, True): "hallucinated in both"}
        outcomes |= {(True, False): "fixed", (False, True): "broken"}
        outcome = outcomes[first > 0, last > 0]
    claims = [{v.claim for v in verdicts} for verdicts in said.values()]
    return Entry(
        partial(_card, question, said, several),
        {"outcome": outcome, "split": question.split},
        {
            "where they differ most": len(set.union(*claims) - set.intersection(*claims)),
            "most gained": first - last,
            "most lost": last - first,
            "most wrong sentences": sum(counts),
        },
        f"{question.image_id} " + " ".join(v.claim for vs in said.values() for v in vs),
    )


def _card(question: Question, said: Said, several: bool) -> Card:
    parts = [
        verdict_column(f"{run}, " * several + model_title(model), verdicts)
        for (run, model), verdicts in said.items()
    ]
    title = f"Image {question.image_id}: {question.text}"
    note = "✓ true; ✗ wrong; ? not to be judged."
    return text_card(question.image, parts, title=title, note=note)


# POPE's questions by object, split and error.

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
    said: dict[str, dict[str, Answer]] = defaultdict(dict)
    for answer in read_jsonl(folders.evaluated / "samples.jsonl", Answer):
        if answer.question_id in questions and answer.model in models:
            said[answer.question_id][answer.model] = answer
    entries = []
    for key, answers in said.items():
        shown = [answers[model] for model in models if model in answers]
        errors = [_error(questions[key], answer) for answer in shown]
        if any(errors) or not only_errors:
            entries.append(_pope_entry(questions[key], shown, errors))
    title = "questions with a wrong answer" if only_errors else "questions"
    return Browser(entries, title=title, per_page=per_page, is_mini=folders.is_mini)


def _error(question: Question, answer: Answer) -> str:
    """How an answer is wrong; "" if it is right."""
    return _KINDS.get((yes_no_upstream(answer.text), question.label or ""), "")


def _pope_entry(question: Question, answers: Sequence[Answer], errors: Sequence[str]) -> Entry:
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
    draw = partial(_pope_card, question, answers, errors)
    text = f"{question.image_id} {question.text}"
    return Entry(draw, facets, {"wrong answers": sum(map(bool, errors))}, text)


def _pope_card(question: Question, answers: Sequence[Answer], errors: Sequence[str]) -> Card:
    columns = [
        Column(
            model_title(answer.model),
            [Line(plain(answer.text), "invented" if error else "true", error)],
        )
        for answer, error in zip(answers, errors, strict=True)
    ]
    title = f"{question.text} The right answer: {question.label or 'unknown'}."
    note = f"Image {question.image_id}, split {question.split}. ✓ right; ✗ wrong."
    return text_card(question.image, columns, title=title, note=note)


def browse_pairs(pairs: Path | Sequence[Pair | Instruction]) -> Browser:
    """A browser of pairs or instructions, or of a file of pairs (`pairs.jsonl` of prepare).

    Raises:
        BadInput: a line that is no pair.
    """
    every = list(read_jsonl(pairs, Pair)) if isinstance(pairs, Path) else pairs
    entries = [
        _instruction_entry(record) if isinstance(record, Instruction) else _pair_entry(record)
        for record in every
    ]
    is_pairs = all(isinstance(record, Pair) for record in every)
    return Browser(entries, title="pairs" if is_pairs else "instructions")


def _pair_entry(pair: Pair) -> Entry:
    chosen, rejected = pair.chosen.split(), pair.rejected.split()
    change = len(chosen) - len(rejected)
    length = "longer" if change > 0 else "shorter" if change < 0 else "as long"
    return Entry(
        partial(pair_card, pair),
        {"kind": pair.kind, "source": pair.source, "chosen is": length},
        {
            "words chosen": len(chosen),
            "words more in chosen": change,
            "words fewer in chosen": -change,
            "new words in rejected": len(set(rejected) - set(chosen)),
        },
        f"{pair.instruction} {pair.chosen} {pair.rejected}",
    )


def _instruction_entry(record: Instruction) -> Entry:
    return Entry(
        partial(pair_card, record),
        {"kind": record.kind, "source": record.source, "task": record.task},
        {"words of the answer": len(record.answer.split()), "weight": record.weight},
        f"{record.instruction} {record.answer}",
    )
