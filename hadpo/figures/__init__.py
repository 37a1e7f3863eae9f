"""Every figure of the kit in one house style: base grey, tuned blue, published values hollow.

Each function takes plain records, rows or paths and gives a `Figure` or a `Card`, which shows
itself in a notebook (with its words for those who do not see it) and saves itself. Whoever draws
data of a run must say whether they are of the synthetic world (`is_mini`): there is no default.
"""

from hadpo.figures._card import SIGNS, Card, Column, Line
from hadpo.figures._style import Figure
from hadpo.figures.bars import pope_bars, shr_bars
from hadpo.figures.cards import (
    Cards,
    best_and_worst,
    contact_sheet,
    hallucination_card,
    pair_card,
    text_card,
    verdict_lines,
)
from hadpo.figures.cost import cost_bars
from hadpo.figures.curves import Curves, read_steps, smooth, training_curves
from hadpo.figures.descriptions import invented_objects, length_against_hallucination
from hadpo.figures.dumbbell import dumbbell, published_dumbbell
from hadpo.figures.gallery import Gallery, compare, hallucination_cards
from hadpo.figures.heat import heat_maps
from hadpo.figures.learning import learning_curve
from hadpo.figures.lengths import length_figure
from hadpo.figures.margins import margin_histogram
from hadpo.figures.mask import mask_picture
from hadpo.figures.samples import evidence_cards, pair_cards, question_sheet
from hadpo.figures.scores import Figures, benchmark_figures, score_bars
from hadpo.figures.speed import speed_bars, speedup_bars
from hadpo.figures.strip import strip_picture
from hadpo.figures.style import style_figure
from hadpo.figures.sweep import beta_sweep

__all__ = [
    "SIGNS",
    "Card",
    "Cards",
    "Column",
    "Curves",
    "Figure",
    "Figures",
    "Gallery",
    "Line",
    "benchmark_figures",
    "best_and_worst",
    "beta_sweep",
    "compare",
    "contact_sheet",
    "cost_bars",
    "dumbbell",
    "evidence_cards",
    "hallucination_card",
    "hallucination_cards",
    "heat_maps",
    "invented_objects",
    "learning_curve",
    "length_against_hallucination",
    "length_figure",
    "margin_histogram",
    "mask_picture",
    "pair_card",
    "pair_cards",
    "pope_bars",
    "published_dumbbell",
    "question_sheet",
    "read_steps",
    "score_bars",
    "shr_bars",
    "smooth",
    "speed_bars",
    "speedup_bars",
    "strip_picture",
    "style_figure",
    "text_card",
    "training_curves",
    "verdict_lines",
]
