"""What the walkthrough shows and asks: small computations on one mini run, and checks of answers.

Nothing else imports it. Each function belongs to one chapter of `notebooks/00_walkthrough.ipynb`.
"""

from hadpo.classroom.check import WrongAnswer, check
from hadpo.classroom.cost import Cost, cost_of
from hadpo.classroom.habits import Habits, habits
from hadpo.classroom.slider import Slid, beta_slider
from hadpo.classroom.words import described, differing_words, falls_further, gained, token_strip

__all__ = [
    "Cost",
    "Habits",
    "Slid",
    "WrongAnswer",
    "beta_slider",
    "check",
    "cost_of",
    "described",
    "differing_words",
    "falls_further",
    "gained",
    "habits",
    "token_strip",
]
