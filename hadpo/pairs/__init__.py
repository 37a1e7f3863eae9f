"""Preference pairs: the published ones, or mined from the model's own answers and corrected."""

from hadpo.pairs.look import look, plan
from hadpo.pairs.stage import prepare
from hadpo.pairs.style import Style, summary
from hadpo.pairs.style import measure as style

__all__ = ["Style", "look", "plan", "prepare", "style", "summary"]
