"""One strict dataclass a section of a recipe; a field's comment is its documentation."""

from hadpo.config.sections.compare import CompareConfig
from hadpo.config.sections.data import DataConfig
from hadpo.config.sections.evaluate import EvaluateConfig
from hadpo.config.sections.merge import MergeConfig
from hadpo.config.sections.model import ModelConfig
from hadpo.config.sections.prepare import PrepareConfig
from hadpo.config.sections.train import TrainConfig

__all__ = [
    "CompareConfig",
    "DataConfig",
    "EvaluateConfig",
    "MergeConfig",
    "ModelConfig",
    "PrepareConfig",
    "TrainConfig",
]
