"""Every figure of the kit in one house style: base grey, tuned blue, published values hollow.

Each function takes plain records, rows or paths and gives a `Figure` or a `Card`, which shows
itself in a notebook (with its words for those who do not see it) and saves itself. Whoever draws
data of a run must say whether they are of the synthetic world (`is_mini`): there is no default.
"""

from hadpo.figures._style import Figure
from hadpo.figures.bars import (
    dumbbell,
    invented_objects,
    length_against_hallucination,
    length_figure,
    pope_bars,
    published_dumbbell,
    shr_bars,
)
from hadpo.figures.cards import (
    SIGNS,
    Card,
    Cards,
    Column,
    Gallery,
    Line,
    best_and_worst,
    compare,
    contact_sheet,
    evidence_cards,
    hallucination_card,
    hallucination_cards,
    pair_card,
    pair_cards,
    question_sheet,
    text_card,
    verdict_lines,
)
from hadpo.figures.curves import (
    Curves,
    beta_sweep,
    learning_curve,
    margin_histogram,
    read_steps,
    smooth,
    training_curves,
)
from hadpo.figures.mask import mask_picture
from hadpo.figures.scores import Figures, benchmark_figures, score_bars
from hadpo.figures.speed import speed_bars, speedup_bars
from hadpo.figures.teaching import cost_bars, heat_maps, strip_picture, style_figure

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
