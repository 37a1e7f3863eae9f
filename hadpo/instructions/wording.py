"""Filters of captions by language and profanity; both need the extra `filters`.

They read one text at a time and cost far more than all other filters together, so they come last.
"""

import importlib.util
from collections.abc import Callable, Collection, Sequence

from hadpo.plugins import choices
from hadpo.records import BadInput

SURE = 0.5  # probability; captions of a few words are often too short to tell
PROFANE = 0.5  # probability from which a caption counts as profane


def language_filter(languages: Collection[str]) -> Callable[[str], bool]:
    """Whether a text may be in one of the languages: false where another one is likely.

    Args:
        languages: ISO 639-1 codes, for example {"en"}.

    Raises:
        BadInput: py3langid is not installed, or an unknown code.
    """
    _need("py3langid")
    from py3langid import langid  # pyright: ignore[reportMissingImports]

    known = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    for code in languages:
        if code not in known.nb_classes:
            raise BadInput(f"no language {code!r}; {choices(code, set(known.nb_classes))}")

    def may_be(text: str) -> bool:
        # Capitals look like no language to a model of lower-case text.
        found, probability = known.classify(text.lower() if text.isupper() else text)
        return found in languages or probability < SURE

    return may_be


def profanity_filter() -> Callable[[Sequence[str]], list[bool]]:
    """Whether each of some texts is clean; many at a time, which is what makes it fast.

    Raises:
        BadInput: alt-profanity-check is not installed.
    """
    _need("profanity_check")
    import profanity_check  # pyright: ignore[reportMissingImports]

    def are_clean(texts: Sequence[str]) -> list[bool]:
        return [bool(p < PROFANE) for p in profanity_check.predict_prob(list(texts))]

    return are_clean


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise BadInput(
            "the filters of language and profanity are not installed; pip install -e '.[filters]', "
            "or leave them out"
        )
