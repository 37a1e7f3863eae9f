"""Texts read as the objects that they name: CHAIR's script, its port, and plainly without nltk."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from hadpo.benchmarks._english import Words, lemmas, singular
from hadpo.records import BadInput, Evidence
from hadpo.text import forms, longest_terms, words

# Two words that are one. Source: CHAIR's utils/chair.py; `eval_gpt_obj_halbench.py` has the same.
_TWO_WORDS = (
    *("motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal"),
    *("stop light", "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball"),
    *("baseball bat", "baseball glove", "tennis racket", "wine glass", "hot dog", "cell phone"),
    *("mobile phone", "teddy bear", "hair drier", "potted plant", "laptop computer"),
    *("stove top oven", "home plate", "train track"),
)
_ANIMALS = (
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    *("animal", "cub"),
)
DOUBLE_WORDS: dict[str, str] = {
    **{words: words for words in _TWO_WORDS},
    **{f"{age} {animal}": animal for animal in _ANIMALS for age in ("baby", "adult")},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    **{"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"},
}


def join(words: Sequence[str]) -> list[tuple[int, str]]:
    """Words with double ones joined: place of each first word, and what is said there."""
    found, at = [], 0
    while at < len(words):
        pair = " ".join(words[at : at + 2])
        is_double = at + 1 < len(words) and pair in DOUBLE_WORDS
        found.append((at, DOUBLE_WORDS[pair] if is_double else words[at]))
        at += 1 + is_double
    return found


def without_seats(words: Sequence[str]) -> list[str]:
    """The words, without "seat" if there is a toilet, too: it is the toilet's."""
    return [word for word in words if word != "seat"] if "toilet" in words else list(words)


class Lexicon:
    """Words -> objects, without nltk: regular plurals, double words, the longest term wins."""

    def __init__(self, synonyms: Mapping[str, str]) -> None:
        """Learn the words of a file of synonyms, and their regular plurals."""
        names = {" ".join(words(term)): name for term, name in synonyms.items()}
        said = {term: (term, name) for term, name in names.items()}
        said |= {term: (word, names.get(word, "")) for term, word in DOUBLE_WORDS.items()}
        said |= {"seat": ("seat", names.get("seat", ""))}
        self._terms: dict[tuple[str, ...], tuple[str, str]] = {}
        for term, meaning in said.items():
            for form in forms(term):
                self._terms.setdefault(tuple(words(form)), meaning)
        for term, meaning in said.items():  # "glasses" is a word before it is a plural
            self._terms[tuple(words(term))] = meaning
        self._terms.pop((), None)
        self._longest = max(map(len, self._terms), default=0)

    def mentions(self, text: str) -> list[str]:
        """The objects that a text names, in order, once for each time."""
        said = longest_terms(words(text), self._terms, longest=self._longest)
        has_toilet = any(word == "toilet" for word, _ in said)
        return [name for word, name in said if name and not (has_toilet and word == "seat")]


class Mentions(NamedTuple):
    """The objects that one text names: `words` as they stand there, `nodes` as they are called.

    `places` are the original's, which shift if a toilet's seat was dropped; `said` are all words.
    """

    words: list[str]
    nodes: list[str]
    places: list[int]
    said: list[str]


class Reader:
    """Texts read as CHAIR's script or its port reads them, and what is in photos."""

    def __init__(
        self,
        synonyms: Mapping[str, str],
        english: Words,
        reading: Literal["original", "lemmatizer"],
    ) -> None:
        """A reader of these synonyms, words as the file has them."""
        self.synonyms, self.english, self.reading = synonyms, english, reading
        self._photos: dict[str, set[str]] = {}  # what is in them, by image id

    def read(self, text: str) -> Mentions:
        """The objects that a text names, in order, once for each time."""
        tokens = self.english.tokens(text.lower())
        if self.reading == "original":
            joined = join([singular(token) for token in tokens])
        else:
            joined = join(lemmas(self.english, tokens))
        left = without_seats([word for _, word in joined])
        named = [(rank, word) for rank, word in enumerate(left) if word in self.synonyms]
        return Mentions(
            words=[word for _, word in named],
            nodes=[self.synonyms[word] for _, word in named],
            places=[joined[rank][0] for rank, _ in named],
            said=[word for _, word in joined],
        )

    def present(self, known: Evidence) -> set[str]:
        """What is in a photo: its instances, and all that its captions name.

        Raises:
            BadInput: nothing is known of captions, or an instance is of no known object.
        """
        if known.image_id not in self._photos:
            other = [name for name in known.objects if name not in self.synonyms]
            if other or (known.objects and not known.facts):
                why = f"the synonyms lack {other[0]}" if other else "it has no captions"
                raise BadInput(
                    f"image {known.image_id}: {why}; CHAIR needs COCO's instances and captions: "
                    "set data.chair_annotations, or evaluate.chair_reading: plain"
                )
            found = {self.synonyms[name] for name in known.objects}
            found.update(node for text in known.facts for node in self.read(text).nodes)
            self._photos[known.image_id] = found
        return self._photos[known.image_id]
