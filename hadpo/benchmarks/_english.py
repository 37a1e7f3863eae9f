"""English as the benchmarks' own scripts read it: tokens, tags, lemmas, singulars.

nltk tokenizes, tags and lemmatizes, with data that `hadpo fetch nltk-data` brings. The mini world's
words are few, so it reads by a table instead, `words_mini.json`, and needs neither. spaCy's models
are the user's, and named with their version.
"""

import contextlib
import functools
import json
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

from hadpo.config import resolve_path
from hadpo.records import BadInput

WordsName = Literal["nltk", "mini"]
_HERE = Path(__file__).parent
_NLTK_DATA = {
    "tokenizers/punkt_tab/english": "punkt_tab",
    "taggers/averaged_perceptron_tagger_eng": "averaged_perceptron_tagger_eng",
    "corpora/wordnet": "wordnet",
}
_KINDS = {"J": "a", "V": "v", "R": "r"}  # first letter of a tag -> WordNet's name; else a noun


class Words(Protocol):
    """What reads English; a test may put recorded readings in its place."""

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, in the Penn Treebank's way."""
        ...

    def tags(self, tokens: list[str]) -> list[str]:
        """The Penn Treebank tag of each token."""
        ...

    def lemma(self, word: str, kind: str = "n") -> str:
        """WordNet's lemma of a word as noun n, verb v, adjective a or adverb r."""
        ...


def tagged(words: Words, text: str) -> list[tuple[str, str]]:
    """The tokens of a text, each with its tag."""
    tokens = words.tokens(text)
    return list(zip(tokens, words.tags(tokens), strict=True))


def lemmas(words: Words, text: str) -> list[str]:
    """The lemma of each token of a text by its tag."""
    return [words.lemma(token, _KINDS.get(tag[:1], "n")) for token, tag in tagged(words, text)]


def load(name: WordsName) -> Words:
    """nltk, or the mini world's table; BadInput if nltk or its data is not there."""
    return _Nltk() if name == "nltk" else _Table(table("words_mini.json"))


def check(words: WordsName, model: str = "") -> None:
    """Raise BadInput, with how to get it, if nltk, its data or a model of spaCy is not there."""
    load(words)
    if model:
        spacy_model(model)


@functools.cache
def spacy_model(name: str) -> Callable[[str], Any]:
    """SpaCy's model of that name: it reads a text, and each text once.

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


def named_model(name: str, none: str) -> str:
    """The name and version of a model of spaCy, as they stand beside every number, or `none`."""
    if not name:
        return none
    try:
        return f"{name} {metadata.version(name.replace('_', '-'))}"
    except metadata.PackageNotFoundError:
        return f"{name} (not installed here)"


class _Nltk:
    def __init__(self) -> None:
        try:
            import nltk  # pyright: ignore[reportMissingImports]
            from nltk.stem import WordNetLemmatizer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise BadInput(
                "nltk, which reads words for this benchmark, is not installed; install the extra: "
                "pip install 'hadpo[benchmarks]'"
            ) from error
        place = str(resolve_path("${HADPO_DATA}/nltk_data"))
        if place not in nltk.data.path:
            nltk.data.path.append(place)
        missing = [name for path, name in _NLTK_DATA.items() if not _has(nltk, path)]
        if missing:
            raise BadInput(
                f"nltk's data is not there: {', '.join(missing)} (looked in {place} and where "
                "NLTK_DATA says); get it with: hadpo fetch nltk-data"
            )
        self._nltk: Any = nltk
        self._lemmatize = functools.cache(WordNetLemmatizer().lemmatize)

    def tokens(self, text: str) -> list[str]:
        return self._nltk.word_tokenize(text)

    def tags(self, tokens: list[str]) -> list[str]:
        return [tag for _, tag in self._nltk.pos_tag(tokens)]

    def lemma(self, word: str, kind: str = "n") -> str:
        return self._lemmatize(word, kind)


def _has(nltk: Any, path: str) -> bool:
    for place in (path, f"{path}.zip"):
        with contextlib.suppress(LookupError):
            return bool(nltk.data.find(place))
    return False


class _Table:
    """Tag and lemma by word; what is not in the table is a noun that stays as it is."""

    def __init__(self, known: Mapping[str, tuple[str, str]]) -> None:
        self._known = known

    def tokens(self, text: str) -> list[str]:
        return re.findall(r"\w+|[^\w\s]", text)

    def tags(self, tokens: list[str]) -> list[str]:
        return [self._known.get(token.lower(), ("NN", ""))[0] for token in tokens]

    def lemma(self, word: str, kind: str = "n") -> str:
        return self._known.get(word, ("", word))[1]


@functools.cache
def table(name: str) -> Any:
    """The content of a table of words beside this file."""
    return json.loads((_HERE / name).read_text(encoding="utf-8"))


@functools.cache
def _rules() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), by) for pattern, by in table("singular.json")["rules"]]


@functools.cache
def singular(word: str) -> str:
    """A noun's singular as Pattern has it, with its errors: "bus" is "bu", "cookies" stays.

    Source: clips/pattern, pattern/text/en/inflect.py, `singularize`; its tables are data here.
    """
    tables, low = table("singular.json"), word.lower()
    first, *rest = word.split("-")
    if rest and rest[0] in tables["prepositions"]:
        return "-".join((singular(first), *rest))
    if word.endswith("'"):
        return singular(word[:-1]) + "'s"
    if any(each.endswith(low) for kind in ("uninflected", "uncountable") for each in tables[kind]):
        return word
    if any(low.endswith(f"{each}s") for each in tables["ie"]):
        return low
    for end, by in tables["irregular"].items():
        if low.endswith(end):
            return re.sub(f"(?i){end}$", by, word)
    for pattern, by in _rules():
        if found := pattern.search(word):
            for number, group in enumerate(found.groups(), start=1):
                by = by if group is not None else by.replace(f"\\{number}", "")
            return pattern.sub(by, word)
    return word
