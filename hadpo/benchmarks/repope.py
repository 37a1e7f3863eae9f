"""RePOPE: POPE with corrected labels. Its questions are POPE's, so one run's answers give both.

The metrics without a prefix are the original's: yes or no by letters anywhere in the reply, and a
reply with neither leaves every denominator; `no_answer` is their share. Those named `strict_...`
are read as POPE's are. Labels are not balanced: F1 is the number to report.
"""

from dataclasses import replace

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally, _yes_no
from hadpo.benchmarks._yes_no import FORMS, LABELS, rates, unreadable
from hadpo.config import STRICT
from hadpo.data import Report, Sources
from hadpo.data import pope as data
from hadpo.records import Answer, Question
from hadpo.text import word_count, yes_no_anywhere, yes_no_strict

__all__ = ["FORMS", "LABELS", "unreadable"]

SPLIT_TITLE = "RePOPE {split}"
SAME_QUESTIONS_AS = "pope"
MEAN = "mean"  # of the sets, as the paper's tables have it
LISTED = (("adversarial", "f1"),)
READINGS = {"": "RePOPE's, by letters", "strict_": "strict"}
MEASURES = (*_yes_no.MEASURES, Measure("no_answer", "replies without yes or no"))
yes_no = yes_no_anywhere


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie."""

    repope: str = ""  # folder with coco_repope_{random,popular,adversarial}.json


FILES = {"repope": ("RePOPE", data.names("repope"))}


def questions(sources: Sources) -> list[Question]:
    """The questions of all three splits, in file order; BadInput without the photos."""
    return data.of_sources("repope", sources)


def image_ids(sources: Sources) -> list[str]:
    """Ids of the photos; problems are reported with the questions."""
    return [q.image_id for q in questions(replace(sources, report=Report("skip")))]


def tally(answer: Answer, known: Known) -> Tally:
    """The five rates of what was answered, under the original's reading and the strict one."""
    assert known.question is not None
    label, said = known.question.label, yes_no_anywhere(answer.text)
    return {
        **rates("", said, label, counts_unread=False),
        "no_answer": (said is None, 1),
        "words_per_answer": (word_count(answer.text), 1),
        **rates("strict_", yes_no_strict(answer.text), label),
    }
