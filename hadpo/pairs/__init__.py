"""What is trained on: preference pairs, published or mined, and instructions to finetune on."""

from hadpo.pairs.look import look, plan, written
from hadpo.pairs.stage import prepare

__all__ = ["look", "plan", "prepare", "written"]
