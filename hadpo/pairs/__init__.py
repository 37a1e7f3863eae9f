"""What is trained on: preference pairs, published or mined, and instructions to finetune on."""

from hadpo.pairs.stage import look, plan, prepare, some_of_each, written
from hadpo.pairs.style import Style, summary
from hadpo.pairs.style import measure as style

__all__ = [
    "Style",
    "look",
    "plan",
    "prepare",
    "some_of_each",
    "style",
    "summary",
    "written",
]
