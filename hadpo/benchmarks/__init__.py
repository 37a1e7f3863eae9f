"""Benchmarks: what is asked, how answers are generated and judged, and what they score.

A benchmark is one module with `questions` (of a data set's files), `decoding` (from the settings),
`cases` (what a judge is to rule on), `RUBRIC` (and how), `score` (answers to metrics), `sums` (what
each answer adds to them) and `READINGS` (how answers are read). One that has `cut` gets the control
of the base's own text at the tuned model's length; a `SPLIT` is one that all its questions are in.
"""

from hadpo.benchmarks._evaluate import evaluate
from hadpo.benchmarks._imported import score_judgement
from hadpo.benchmarks._judge import agreement
from hadpo.benchmarks._plan import plan

__all__ = ["agreement", "evaluate", "plan", "score_judgement"]
