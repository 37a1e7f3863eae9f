"""Anybody's answers scored: a file in one of a benchmark's forms, joined with its questions.

A benchmark declares the layouts in which others write answers as `FORMS`; lmms-eval's samples and
VLMEvalKit's tables have one layout for all benchmarks, `lmms_eval` and `vlmevalkit` say where a
benchmark's fields stand in it.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

from hadpo import plugins
from hadpo.benchmarks._tally import Benchmark, Row, metrics, outcomes, tallies
from hadpo.data import Report, Sources, json_records, read_json_lines
from hadpo.judges.oracle.vocabulary import from_json
from hadpo.records import (
    Answer,
    BadInput,
    Evidence,
    Metric,
    Outcome,
    Question,
    Verdict,
    read_json,
    read_text,
)

# Places of a value, the first that holds one counts: "doc.id", "resps.0", "set+number" joined by _.
Fields = tuple[str, ...]
Entries = Sequence[tuple[str, Any]]  # where a record stands, and the record
_SHOWN = 5  # ids or lines in one message
_WRAPPERS = ("imgToEval", "logs")  # keys of an object that holds the records: CHAIR, old lmms-eval
_EXPECTED = "expected answers: JSON lines, a list, a .tsv, .csv or .xlsx table"
_CELL = 2**24  # characters; a table may hold pictures


@dataclass(frozen=True)
class Form:
    """One layout of answers: which fields of a record say what.

    A file is of the first form whose `answer` and `needs` its first record has. Answers meet their
    questions by id, else by photo and text, else by their order; a text that stands beside is
    checked in any case.
    """

    name: str  # whose it is
    example: str  # a record, for the message about a file that is of no form
    answer: Fields
    _: KW_ONLY
    needs: Fields = ()  # what tells this form from others: all of them are there
    id: Fields = ()  # the end of a question's id, after - or _: 12 of "pope-random-12"
    split: Fields = ()  # of the question; several are separated by commas
    image: Fields = ()  # the photo's file
    asked: Fields = ()  # what was asked: it holds the question's text
    label: Fields = ()  # the right answer: the file can be scored without a file of questions
    replies: Mapping[str, Fields] = field(default_factory=dict)  # rubric -> a judge's raw reply

    def fits(self, record: Any) -> bool:
        """Whether a record has the fields that this form needs."""
        needed = [self.answer, *((place,) for place in self.needs)]
        return all(value_of(record, fields) is not None for fields in needed)


def lmms_eval(
    *, id: Fields = (), split: Fields = (), image: Fields = ("doc.image_source",)
) -> Form:
    """lmms-eval's samples (`--log_samples`): JSON lines or, of old versions, one object."""
    return Form(
        name="lmms-eval's samples",
        example='{"doc_id": 0, "doc": {...}, "target": "yes", "filtered_resps": ["Yes"]}',
        answer=("filtered_resps.0", "filtered_resps", "resps.0.0"),
        needs=("doc_id",),
        id=id,
        split=split,
        image=image,
        asked=("doc.question", "input"),
        label=("target", "doc.answer"),
    )


def vlmevalkit(*, id: Fields = (), split: Fields = (), image: Fields = ()) -> Form:
    """VLMEvalKit's tables of predictions."""
    return Form(
        name="VLMEvalKit's tables",
        example="a table with the columns index, question, answer, prediction",
        answer=("prediction",),
        needs=("index", "question"),
        id=id,
        split=split,
        image=image,
        asked=("question",),
        label=("answer",),
    )


def value_of(record: Any, fields: Fields) -> str | None:
    """The first of some fields that holds a text or a number, as text; None if none does."""
    for place in fields:
        if "+" in place:
            parts = [value_of(record, (part,)) for part in place.split("+")]
            if None not in parts:
                return "_".join(map(str, parts))
            continue
        found: Any = record
        for step in place.split("."):
            if isinstance(found, Mapping):
                found = found.get(step)
            else:
                items = found if isinstance(found, list) and step.isdigit() else []
                found = next(iter(items[int(step) :]), None) if items else None
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            return str(found)
    return None


def records_of(path: Path, report: Report) -> Entries:
    """`(where, record)` of every record of a file of answers.

    Raises:
        BadInput: no such file, nothing in it, or of no kind that can be read.
    """
    if path.suffix.lower() in (".tsv", ".csv", ".xlsx"):
        return _table(path)
    text = read_text(path, expected=_EXPECTED)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):  # lines, or what the reader of lines refuses
        whole = None
    inner = next((whole[k] for k in _WRAPPERS if isinstance(whole, dict) and k in whole), None)
    if inner is not None:
        read_json(path, dict, expected=_EXPECTED)  # refuses keys that stand twice
        values = list(inner.values()) if isinstance(inner, dict) else inner
        return [(f"{path}: record {number}", value) for number, value in enumerate(values)]
    if isinstance(whole, list):
        return list(json_records(path, expected=_EXPECTED))
    return list(read_json_lines(path, report, source="answers", expected=_EXPECTED))


def _table(path: Path) -> Entries:
    """Rows as records, by the names in the first; an empty cell is an empty text."""
    rows = _sheet(path) if path.suffix.lower() == ".xlsx" else _cells(path)
    head = rows[0][1] if rows else []
    names = [str(name) for name in head if name is not None]
    if not names or len(names) != len(set(names)):
        raise BadInput(f"{path}:1: expected names of columns, each once; found {head[:8]}")
    if other := [row for row in rows if len(row[1]) != len(head)]:
        where, cells = other[0]
        raise BadInput(f"{where}: expected {len(head)} cells, found {len(cells)}")
    return [
        (where, {n: "" if c is None else c for n, c in zip(head, cells, strict=True)})
        for where, cells in rows[1:]
        if any(cell not in (None, "") for cell in cells)
    ]


def _cells(path: Path) -> list[tuple[str, list[Any]]]:
    lines = read_text(path, expected=_EXPECTED).splitlines(keepends=True)
    usual = csv.field_size_limit(_CELL)
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.reader(lines, delimiter=separator, strict=True)
    try:
        return [(f"{path}:{rows.line_num}", row) for row in rows]
    except csv.Error as error:
        raise BadInput(f"{path}:{rows.line_num}: no table ({error}); {_EXPECTED}") from error
    finally:
        csv.field_size_limit(usual)  # it holds for the whole process


def _sheet(path: Path) -> list[tuple[str, list[Any]]]:
    try:
        import openpyxl  # pyright: ignore[reportMissingModuleSource]
    except ImportError as error:
        raise BadInput(
            f"{path}: tables of Excel need the extra benchmarks (pip install 'hadpo[benchmarks]'); "
            "or save it as .tsv"
        ) from error
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {_EXPECTED}")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = list(book[book.sheetnames[0]].iter_rows(values_only=True))
    except Exception as error:  # openpyxl raises whatever the parts of the file raise
        raise BadInput(f"{path}: no table of Excel ({error}); {_EXPECTED}") from error
    return [(f"{path}:{number}", list(row)) for number, row in enumerate(rows, start=1)]


@dataclass(frozen=True)
class Scored:
    """One file of answers with its numbers."""

    benchmark: Benchmark
    form: str
    questions: Sequence[Question]
    rows: Sequence[Row]
    metrics: Sequence[Metric]
    left_out: int  # answers to questions that the benchmark does not ask

    @property
    def ids(self) -> set[str]:
        """Of the questions that are answered."""
        return {row.answer.question_id for row in self.rows}

    def outcomes(self, ids: Collection[str]) -> list[Outcome]:
        """What the metrics rest on, image by image, for some questions."""
        rows = [row for row in self.rows if row.answer.question_id in ids]
        return outcomes(self.benchmark, rows, self.questions)


def score_file(
    name: str,
    path: Path,
    *,
    data: Any,
    settings: Any,
    resolve: Callable[[str], Path],
    questions: str = "",
) -> Scored:
    """The metrics of a file of answers that others wrote.

    Args:
        name: of the benchmark.
        path: the answers, in one of its `FORMS`.
        data: section data of a recipe, with the paths that the benchmark reads.
        settings: section evaluate.
        resolve: a path of the section data -> where it lies.
        questions: the file of questions; empty: what the answers' file itself says is right, or
            the recipe's.

    Raises:
        BadInput: a benchmark without forms, a file of none of them, an answer to no question, two
            answers to one, an answer without its judge's reply.
    """
    benchmark, module = Benchmark.named(name), plugins.load("hadpo.benchmarks", name)
    if not benchmark.FORMS:
        known = [n for n in plugins.available("hadpo.benchmarks") if Benchmark.named(n).FORMS]
        raise BadInput(f"{name}: nobody else's answers are read; {plugins.choices(name, known)}")
    report = Report(asks=False)
    records = records_of(path, report)
    report.finish()
    form = _form(benchmark, records, path)
    evidence: dict[str, Evidence] = {}
    words: dict[str, Any] = {}
    tells = bool(form.label and form.asked) and all(
        None not in (value_of(r, form.label), value_of(r, form.asked)) for _, r in records
    )
    if tells and not questions and not benchmark.SAME_QUESTIONS_AS:
        matches = _own_questions(benchmark, form, records)
        asked = [question for some in matches for question in some]
    else:
        if questions:
            setting = str(getattr(module, "QUESTIONS", next(iter(module.FILES))))
            data = replace(data, **{setting: questions})
        sources = Sources(data=data, resolve=resolve, note=Path, report=report)
        if not sources.has(module):
            raise BadInput(f"{name}: no questions; name their file with --questions")
        evidence = module.evidence(sources) if hasattr(module, "evidence") else {}
        sources = replace(sources, images=evidence, photos=evidence)
        asked = list(module.questions(sources))
        words = module.vocabulary(sources) if hasattr(module, "vocabulary") else {}
        report.finish()
        texts = {_blanks(question.text) for question in asked}
        if all(_blanks(value_of(r, form.answer) or "") in texts for _, r in records):
            raise BadInput(
                f"{path}: a file of questions: the {form.answer[0]} of each record is what "
                f"{name} asks; expected what a model answered"
            )
        matches = _matches(form, records, asked, path)
    left_out = [where for (where, _), some in zip(records, matches, strict=True) if not some]
    if left_out and (not benchmark.SAME_QUESTIONS_AS or len(left_out) == len(records)):
        raise BadInput(
            f"{left_out[0]}: {len(left_out)} answers to questions that are not asked; name what "
            "was asked with --questions"
        )
    said = _answers(form, records, matches, model=str(path))
    answers = [answer for answer, _ in said.values()]
    verdicts = _verdicts(benchmark, form, said, asked, evidence, settings)
    rows = tallies(benchmark, answers, asked, verdicts, evidence, from_json(words), settings)
    samples, seed = settings.bootstrap_samples, settings.evaluate_seed
    made = metrics(benchmark, rows, asked, samples=samples, seed=seed)
    return Scored(benchmark, form.name, asked, rows, made, len(left_out))


def _form(benchmark: Benchmark, records: Entries, path: Path) -> Form:
    """The form of a file: the first that its first record fits, and that all of them fit.

    Raises:
        BadInput: none does; says what was found, and shows a record of each.
    """
    if not records:
        raise BadInput(f"{path}: no answers in it")
    where, first = records[0]
    form = next((form for form in benchmark.FORMS if form.fits(first)), None)
    examples = [f"  {form.name}: {form.example}" for form in benchmark.FORMS]
    expected = "\n".join([f"expected one of {benchmark.name}'s forms:", *examples])
    if form is None:
        has = ", ".join(map(str, first)) if isinstance(first, Mapping) else type(first).__name__
        raise BadInput(f"{where}: an unknown form of answers, found {has}; {expected}")
    other = [where for where, record in records if not form.fits(record)]
    if other:
        more = f" and {len(other) - 1} more" * (len(other) > 1)
        need = ", ".join((form.answer[0], *form.needs))
        raise BadInput(
            f"{other[0]}{more}: not of the form of the first record ({need}); {expected}"
        )
    return form


def _own_questions(benchmark: Benchmark, form: Form, records: Entries) -> list[list[Question]]:
    """Of each record, the questions that it answers, as it says them; unnamed photos are different.

    Their ids are the records' own if their splits are known, else their number in the file.
    """
    matches = []
    for number, (where, record) in enumerate(records, start=1):
        label = str(value_of(record, form.label))
        label = label.lower() if label.lower() in benchmark.LABELS else label
        if benchmark.LABELS and label not in benchmark.LABELS:
            expected = " or ".join(benchmark.LABELS)
            raise BadInput(f"{where}: the right answer is {label!r}, expected {expected}")
        own = _splits(form, record)
        key = (value_of(record, form.id) if own else None) or str(number)
        image = value_of(record, form.image) or f"photo of {key}"
        question = Question(
            question_id="",
            benchmark=benchmark.name,
            split="",
            image_id=Path(image).stem,
            image=image,
            text=str(value_of(record, form.asked)),
            label=label,
        )
        names = {split: f"{benchmark.name}-{split}-{key}" for split in own or ["all"]}
        matches.append([replace(question, split=s, question_id=n) for s, n in names.items()])
    return matches


def _splits(form: Form, record: Any) -> list[str]:
    splits = (value_of(record, form.split) or "").split(",")
    return [split.strip() for split in splits if split.strip()]


def _matches(
    form: Form, records: Entries, questions: Sequence[Question], path: Path
) -> list[list[Question]]:
    """Of each record, the questions that it answers; none: it answers what is not asked.

    Raises:
        BadInput: an id of several questions, records in an order that says nothing, or a record
            that was asked something else.
    """
    by_end: dict[str, list[Question]] = defaultdict(list)
    by_photo: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in questions:
        for end in _ends(question.question_id):
            by_end[end].append(question)
        by_photo[question.image_id, _blanks(question.text)].append(question)
    has_ids = any(value_of(record, form.id) is not None for _, record in records)
    has_photos = any(value_of(record, form.image) is not None for _, record in records)
    splits = {question.split for question in questions}
    if not has_ids and not has_photos and (len(splits) > 1 or len(records) > len(questions)):
        raise BadInput(
            f"{path}: {len(records)} answers without ids, so in the order of the questions; but "
            f"these are {len(questions)} of {', '.join(sorted(splits))}; name one file with "
            "--questions"
        )
    matches = []
    for number, (where, record) in enumerate(records):
        asked, own = _blanks(value_of(record, form.asked) or ""), _splits(form, record)
        if has_ids:
            key = value_of(record, form.id)
            if key is None:
                raise BadInput(f"{where}: no {form.id[0]}, which other records have")
            found = [q for q in by_end.get(_plain_id(key), ()) if not own or q.split in own]
            if len(found) > max(1, len(own)):
                names = ", ".join(q.question_id for q in found[:_SHOWN])
                raise BadInput(
                    f"{where}: {form.id[0]} {key} could be {names}; name one file with --questions"
                )
        elif has_photos:
            photo = Path(value_of(record, form.image) or "").stem
            found = by_photo.get((photo, asked), [])
        else:
            found = [questions[number]]
        other = [q for q in found if asked and _blanks(q.text) not in asked]
        if other:
            raise BadInput(
                f"{where}: the answer is to {asked[:80]!r}, but {other[0].question_id} is "
                f"{other[0].text!r}; name the file of its questions with --questions"
            )
        matches.append(found)
    return matches


def _ends(key: str) -> set[str]:
    """What of a question's id others may call it: all of it, or what follows a - or _."""
    starts = [0, *(match.end() for match in re.finditer("[-_]", key))]
    return {_plain_id(key[start:]) for start in starts}


def _plain_id(key: str) -> str:
    """An id without the ending of a photo's file; leading zeros of a number do not matter."""
    key = re.sub(r"\.(?:jpe?g|png)$", "", key)
    return str(int(key)) if re.fullmatch("[0-9]{1,20}", key) else key


def _blanks(text: str) -> str:
    return " ".join(text.split())


def _answers(
    form: Form, records: Entries, matches: Sequence[Sequence[Question]], *, model: str
) -> dict[str, tuple[Answer, Any]]:
    """Answers by the ids of their questions, with their records; BadInput: two to one question."""
    found: dict[str, tuple[Answer, Any]] = {}
    places: dict[str, str] = {}
    for (where, record), questions in zip(records, matches, strict=True):
        for question in questions:
            key = question.question_id
            if key in found:
                raise BadInput(f"{where}: {key} is answered twice, first at {places[key]}")
            places[key] = where
            answer = Answer(
                question_id=key,
                benchmark=question.benchmark,
                split=question.split,
                model=model,
                image_id=question.image_id,
                text=str(value_of(record, form.answer)),
                tokens=0,  # nobody says how many
                finish="stop",
            )
            found[key] = answer, record
    return found


def _verdicts(
    benchmark: Benchmark,
    form: Form,
    said: Mapping[str, tuple[Answer, Any]],
    questions: Sequence[Question],
    evidence: Mapping[str, Evidence],
    settings: Any,
) -> list[Verdict]:
    """The rulings of the judge's replies that stand beside the answers."""
    rubrics = {rubric.name: rubric for rubric in benchmark.RUBRICS}
    by_id = {question.question_id: question for question in questions}
    answers = [answer for answer, _ in said.values()]
    found = []
    for case in benchmark.cases(answers, by_id, evidence, settings):
        fields = form.replies.get(case.rubric, ())
        reply = value_of(said[case.case_id][1], fields)
        if reply is None:
            raise BadInput(
                f"{case.case_id}: no judge's reply beside the answer "
                f"(expected the field {' or '.join(fields) or '-'}); a run asks a judge"
            )
        found += rubrics[case.rubric].read(reply, case)
    return found
