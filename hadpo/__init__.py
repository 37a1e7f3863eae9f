"""hadpo: a reproducible research kit for hallucination in vision-language models.

Read `hadpo.records` first. The names below are the front door; each is imported when it is first
used, so that `import hadpo` is instant.

    load        a model by its name: a recipe, a backbone, or a run's folder
    read_pairs  preference pairs from a file
    train       an adapter on pairs, step by step
    evaluate    a benchmark's metrics with their intervals
"""

TYPE_CHECKING = False  # of `typing`, which would have to be imported first
if TYPE_CHECKING:
    from hadpo.model import Model, evaluate, load, read_pairs, train

__version__ = "0.1.0"
__all__ = ["Model", "evaluate", "load", "read_pairs", "train"]


def __getattr__(name: str):
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'hadpo' has no attribute {name!r}")
    return getattr(importlib.import_module("hadpo.model"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
