"""Benchmarks: what is asked, how answers are generated and judged, and what they score.

A benchmark is one module; `Benchmark` lists what it may declare. It needs three names:

- `questions(...)`: the reader of its questions;
- `MEASURES`: each metric's title, unit and direction;
- `tally(answer, known)`: what one answer adds to numerator and denominator of each metric.

Each refuses (`BadInput`) what it cannot use: a file of another form, an answer of which nothing is
known or on which no judge ruled.

Tables also read `SPLIT_TITLE` ("POPE {split}", put before labels that do not name the benchmark),
`LISTED` (splits and metrics that a list of runs shows), `SHOWN` (settings that notes name), `BARS`
and `LEARNING_METRIC` (what figures draw), if declared. Prepare asks for `image_ids`, `evidence` and
`vocabulary`, doctor for `FILES`. `FORMS` are the layouts in which others write answers, for
`hadpo score`. The settings are two small
dataclasses: `Settings` (section evaluate) and `Data` (paths, section data). Metrics, bootstrap
intervals, outcomes, exports and rows of tables are made for all benchmarks alike.
"""

from hadpo.benchmarks._answers import decoding_of
from hadpo.benchmarks._official import Form, Scored, lmms_eval, score_file, vlmevalkit
from hadpo.benchmarks._stage import agreement, evaluate, plan
from hadpo.benchmarks._tally import (
    Benchmark,
    Known,
    Tally,
    alone,
    only_verdict,
    ruled,
    score,
    shown_picture,
    together,
)
from hadpo.measures import Measure
