"""Every figure of the kit in one house style: base grey, tuned blue, published values hollow.

Each function takes plain records, rows or paths and gives a `Figure` or a `Card`, which shows
itself in a notebook (with its words for those who do not see it) and saves itself. Pictures of a
run's results carry the mark of the synthetic world if the run does; a page of a run bears it once.
"""

from hadpo.figures._style import FEW, Figure
from hadpo.figures.bars import dumbbell, length_figure
from hadpo.figures.cards import (
    SIGNS,
    Card,
    Column,
    Line,
    Pictures,
    contact_sheet,
    differing_words,
    evidence_cards,
    hallucination_card,
    pair_card,
    pair_cards,
    plain,
    question_sheet,
    text_card,
    verdict_column,
)
from hadpo.figures.comparison import compare, hallucination_cards
from hadpo.figures.curves import Curves, beta_sweep, margin_histogram, training_curves
from hadpo.figures.scores import benchmark_figures, pope_bars, score_bars
from hadpo.figures.teaching import (
    cost_bars,
    heat_maps,
    mask_picture,
    strip_picture,
    style_figure,
)
