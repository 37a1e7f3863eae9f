"""Preference pairs: the published ones, or mined from the model's own answers and corrected."""

from hadpo.pairs.look import look, plan, some_of_each
from hadpo.pairs.stage import prepare
from hadpo.pairs.style import Style, summary
from hadpo.pairs.style import measure as style

__all__ = ["Style", "look", "plan", "prepare", "some_of_each", "style", "summary"]
