"""Preference pairs: the published ones, or mined from the model's own answers and corrected."""

from hadpo.pairs.prepare import prepare

__all__ = ["prepare"]
