"""Scores of judgements that somebody else's run has left behind."""

from pathlib import Path

from hadpo import plugins
from hadpo.benchmarks import _shr_files
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Metric


def score_judgement(path: Path, *, samples: int = 1000, seed: int = 42) -> list[Metric]:
    """The SHR metrics, with intervals, of an original judgement.json.

    Object recall has no value: the file does not say what is in the images.

    Raises:
        BadInput: not of that form, or rulings that do not fit the responses.
    """
    answers, verdicts = _shr_files.read_judgement(path)
    shr = plugins.load("hadpo.benchmarks", "shr")
    found = shr.score(answers, [], verdicts, {}, Vocabulary(), samples=samples, seed=seed)
    return [metric for metric in found if metric.name != "unanswered"]
