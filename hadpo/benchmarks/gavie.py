"""GAVIE: answers to instructions, graded by a judge from 0 to 10 for relevancy and accuracy.

All models' answers to one question stand in one case, in an order that is drawn for each question
(graders favour places) and recorded: a verdict's `place` says where its answer stood. The judge
sees the regions of the image and no right answer.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally, only_verdict, together
from hadpo.benchmarks._tally import evidence_of
from hadpo.config import READING_JUDGE, STRICT, AtLeastOne, When
from hadpo.data import Report, Sources, visual_genome
from hadpo.data import gavie as data
from hadpo.judges import Rubric, items_of, reply_schema, texts_of, verdict, within
from hadpo.judges.oracle import Oracle
from hadpo.records import Answer, Case, Evidence, Question, Verdict
from hadpo.text import json_object, number, sentences, word_count, words

WHOLE = data.SPLIT
LEARNING_METRIC = "accuracy"
FILES = {"gavie": ("GAVIE", ("",)), "gavie_regions": ("GAVIE regions", ("",))}
READINGS = {"": "scores"}
BARS = {"accuracy": "accuracy", "relevancy": "relevancy"}
CRITERIA = ("relevancy", "accuracy")
MEASURES = (
    Measure("relevancy", "GAVIE: relevancy (0-10)", "number", better="higher", is_read=True),
    Measure("accuracy", "GAVIE: accuracy (0-10)", "number", better="higher", is_read=True),
    Measure("words_per_answer", "words per answer", "number"),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    gavie: str = ""  # GAVIE's evaluation_set.json: questions about Visual Genome images
    # LRV's vg_annotation.json: what GAVIE's judge sees; empty: Visual Genome's own regions.
    gavie_regions: Annotated[str, When.given("data", "gavie")] = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated, and what the judge sees."""

    gavie_beams: AtLeastOne = 1  # 1: greedy
    gavie_max_new_tokens: AtLeastOne = 512  # an answer to one instruction
    # GAVIE's judge sees each box as high as it is wide, as in the published prompts.
    height_bug_compat: Annotated[bool, READING_JUDGE] = False


def questions(sources: Sources) -> list[Question]:
    """The questions in file order."""
    path = sources.note(sources.resolve(sources.data.gavie))
    return data.questions(path, sources.images, sources.report)


def image_ids(sources: Sources) -> list[str]:
    """Ids of the images; problems are reported with the questions."""
    return data.image_ids(sources.resolve(sources.data.gavie), Report("skip"))


def evidence(sources: Sources) -> dict[str, Evidence]:
    """The images with LRV's regions instead of their own, if the recipe names them.

    There is one evidence of an image: SHR's judge sees these regions too, which is counted. An
    image that the file lacks is a broken record; if those are skipped, it keeps its own regions.
    """
    if not sources.data.gavie_regions:
        return {}
    path = sources.note(sources.resolve(sources.data.gavie_regions))
    asked = sources.images.keys() & {*sources.asked["gavie"]}
    regions = visual_genome.read_annotation(path, sources.report, image_ids=asked)
    for key in sorted(asked - regions.keys()):
        sources.report.bad(
            f"{path}: no image {key}, about which GAVIE asks", source="vg_annotation"
        )
    both = len(regions.keys() & {*sources.asked.get("shr", ())})
    why = "images whose regions SHR's judge sees too"
    sources.report.left_out(why, source="vg_annotation", count=both)
    return {key: replace(sources.images[key], regions=regions[key]) for key in regions}


def cases(
    answers: Iterable[Answer],
    questions: Mapping[str, Question],
    evidence: Mapping[str, Evidence],
    settings: Any,
) -> list[Case]:
    """A case per question with the answers of all models, in an order drawn by `evaluate_seed`.

    With `height_bug_compat` each box is as high as it is wide, as in the published prompts, whose
    script printed the width twice.
    """
    found = []
    for case in together(answers, questions, rubric="gavie", seed=settings.evaluate_seed):
        image = questions[case.case_id].image_id
        known = evidence_of(image, evidence.get(image))
        if settings.height_bug_compat:
            known = replace(known, regions=tuple(replace(r, height=r.width) for r in known.regions))
        found.append(replace(case, evidence=known))
    return found


def tally(answer: Answer, known: Known) -> Tally:
    """Both grades, from 0 to 10 over the graded answers, and words; BadInput without a verdict."""
    verdict = only_verdict(answer, known)
    is_graded = verdict.label == "scored"
    grades = {name: verdict.scores[name] if is_graded else 0.0 for name in CRITERIA}
    return {name: (grade, is_graded) for name, grade in grades.items()} | {
        "words_per_answer": (word_count(answer.text), 1)
    }


def pixel_boxes(evidence: Evidence) -> str:
    """Regions as GAVIE shows them: caption, corner and size in pixels."""
    return "\n".join(
        f"{r.phrase} X:{r.x:g} Y:{r.y:g} Width:{r.width:g} Height:{r.height:g}"
        for r in evidence.regions
    )


def grade_by_annotations(oracle: Oracle, case: Case) -> list[Verdict]:
    """Grades of answers: 10 x share of sentences that are right; 10 for one to the point.

    To the point is an answer that begins with yes or no, or names an object of the question. If no
    sentence can be decided, the answer is unparsed: a grade would be made up.
    """
    world = oracle.world(case.evidence)
    asked = {m.name for m in oracle.vocabulary.read(case.question).mentions}
    found = []
    for place, claim in enumerate(case.claims, start=1):
        labels = [oracle.decide(sentence, world)[0] for sentence in sentences(claim)]
        decided = [label for label in labels if label != "cannot judge"]
        named = {m.name for m in oracle.vocabulary.read(claim).mentions}
        is_to_the_point = words(claim)[:1] in (["yes"], ["no"]) or bool(asked & named)
        right = decided.count("correct")
        scores = {}
        if decided:
            accuracy = 10.0 * (right / len(decided))
            scores = {"relevancy": 10.0 * is_to_the_point, "accuracy": accuracy}
        why = f"{right} of {len(decided)} sentences that can be decided"
        label = "scored" if scores else "unparsed"
        found.append(verdict(case, place, label, reason=why, scores=scores))
    return found


_SECTION = re.compile(r"^\W*(?:\d+[.)]\W*)?(relevancy|relevance|accuracy)\b\W*$", re.IGNORECASE)
_GRADE = r"[\s*_]*[:=]?[\s*_]*(-?\d+(?:\.\d+)?)(?:\s*/\s*10)?\W*$"
_SCORE = re.compile(
    rf"^\W*score\s+(?:of|for)\s+(?:the\s+)?answer\s*#?\s*(\d+){_GRADE}", re.IGNORECASE
)
_ONLY_SCORE = re.compile(rf"^\W*score{_GRADE}", re.IGNORECASE)
_REASON = re.compile(r"^\W*reason\W*[:=]\W*(.*)$", re.IGNORECASE)

Grades = list[tuple[int, str, float, str]]  # answer, criterion, grade, reason


def read_grades(reply: str, case: Case) -> list[Verdict]:
    """A verdict per answer, label "scored" where both grades are there, else "unparsed".

    Read are JSON, and sections "Relevancy" and "Accuracy" in any order, with lines "score of the
    answer1: 7" or "score of answer1: 7/10" (of a single answer also "score: 7") and "reason: ...".
    A grade outside of 0 to 10, or two grades for one thing, count as none: never as 0. Grades of
    answers that are not there make the whole reply unreadable.
    """
    value = json_object(reply, "scores")
    rows = _of_lines(reply, len(case.claims)) if value is None else _of_json(value, case)
    rows = within(rows, case)
    found = []
    for place in range(1, len(case.claims) + 1):
        given = {name: [row[2:] for row in rows if row[:2] == (place, name)] for name in CRITERIA}
        own = {
            name: grades[0]
            for name, grades in given.items()
            if len(grades) == 1 and 0 <= grades[0][0] <= 10
        }
        why = "; ".join(f"{name}: {reason}" for name, (_, reason) in own.items() if reason)
        if len(own) == len(CRITERIA):
            scores = {name: grade for name, (grade, _) in own.items()}
            found.append(verdict(case, place, "scored", reason=why, scores=scores))
        else:
            found.append(verdict(case, place, "unparsed", reason=why, raw=reply))
    return found


def _of_lines(reply: str, answers: int) -> Grades:
    rows: Grades = []
    section = ""
    for line in reply.splitlines():
        alone = _ONLY_SCORE.match(line) if answers == 1 else None
        if match := _SECTION.match(line):
            section = "accuracy" if match[1].lower() == "accuracy" else "relevancy"
        elif section and (match := _SCORE.match(line) or alone):
            *number, grade = match.groups()
            rows.append((int(number[0]) if number else 1, section, float(grade), ""))
        elif rows and (match := _REASON.match(line)):
            rows[-1] = (*rows[-1][:3], match[1].strip())
    return rows


def _of_json(value: dict[str, Any], case: Case) -> Grades:
    return [
        (answer or 0, name, grade, str(each.get(f"{name}_reason", "")))
        for answer, each in items_of(value, "scores", case, "answer")
        for name in CRITERIA
        if (grade := number(each.get(name))) is not None
    ]


_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}
RUBRICS = (
    Rubric(
        name="gavie",
        **texts_of(Path(__file__).parent, "gavie"),
        read=read_grades,  # the original published no reader
        schema=reply_schema(
            "scores",
            answer={"type": "integer"},
            relevancy=_NUMBER,
            relevancy_reason=_TEXT,
            accuracy=_NUMBER,
            accuracy_reason=_TEXT,
        ),
        claim="Answer{number}: {claim}",
        regions=pixel_boxes,
        by_annotations=grade_by_annotations,
    ),
)
