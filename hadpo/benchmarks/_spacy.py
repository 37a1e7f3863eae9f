"""spaCy's models, if the user has them: which one, in which version, and what is missing."""

import functools
from collections.abc import Callable
from importlib import metadata
from typing import Any

from hadpo.records import BadInput


@functools.cache
def load(name: str) -> Callable[[str], Any]:
    """The model of that name: it reads a text, and each text once.

    Raises:
        BadInput: spaCy or the model is not installed; says how to get it.
    """
    try:
        import spacy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadInput(
            f"spaCy, which reads words by {name}, is not installed; install the extra: "
            "pip install 'hadpo[spacy]'"
        ) from error
    try:
        return functools.cache(spacy.load(name))
    except OSError as error:
        raise BadInput(
            f"spaCy has no model {name!r}; get it with: python -m spacy download {name}; another "
            "model gives other numbers, under its own name"
        ) from error


def named(name: str) -> str:
    """The name of a model with its version, as it stands beside every number."""
    try:
        return f"{name} {metadata.version(name.replace('_', '-'))}"
    except metadata.PackageNotFoundError:
        return f"{name} (not installed here)"
