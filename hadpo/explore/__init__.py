"""Explorers for JupyterLab: pairs, answers, POPE's errors and training curves to leaf through.

Each is one function that takes folders, runs or records and gives something that shows itself: in
Lab with controls, in a report as the picture that the controls began with.
"""

from hadpo.explore.curves import browse_training
from hadpo.explore.records import browse_answers, browse_pairs, browse_pope_errors
