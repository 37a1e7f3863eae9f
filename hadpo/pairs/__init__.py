"""Preference pairs: the published ones, or mined from the model's own answers and corrected."""

from hadpo.pairs.look import look, plan
from hadpo.pairs.stage import prepare

__all__ = ["look", "plan", "prepare"]
