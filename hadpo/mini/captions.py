"""The language of the mini world: what is true of a scene, said in short regular sentences.

The grammar; `place`, `colour`, `category` and `setting` are the words of `world`:

    sentence = "The {place} shows {phrase}."     an object
             | "The {place} is empty."           no object stands there
             | "The scene is a {setting}."
    phrase   = "a red cup" | "an orange cup"     the article follows the next word
    answer   = "Yes." | "No."                    to "Is there a cup in the image?"

Every sentence is one claim. A description walks through the nine places in reading order, begins
with the setting, names every object and some of the empty places. An empty place and an invented
object take the same slot, so the number of sentences says nothing about hallucination.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from hadpo.mini.world import CATEGORIES, COLOURS, PLACES, SETTINGS, Scene, SceneObject
from hadpo.text import article

TEMPLATES = {
    "object": "The {place} shows {phrase}.",
    "empty": "The {place} is empty.",
    "scene": "The scene is a {setting}.",
}
DESCRIPTION_QUESTIONS = (  # the four questions of HA-DPO
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
EMPTY_SHARE = 0.45  # how many of the empty places a description mentions
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class ObjectClaim:
    """The sentence says that this object stands at this place."""

    category: str
    colour: str
    place: str


@dataclass(frozen=True)
class EmptyClaim:
    """The sentence says that nothing stands at this place."""

    place: str


@dataclass(frozen=True)
class SettingClaim:
    """The sentence says what the scene is."""

    setting: str


Claim = ObjectClaim | EmptyClaim | SettingClaim


def with_article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{article(words)} {words}"


def sentence(claim: Claim) -> str:
    """The sentence that makes a claim."""
    match claim:
        case ObjectClaim(category, colour, place):
            phrase = with_article(f"{colour} {category}")
            return TEMPLATES["object"].format(place=place, phrase=phrase)
        case EmptyClaim(place):
            return TEMPLATES["empty"].format(place=place)
        case SettingClaim(setting):
            return TEMPLATES["scene"].format(setting=setting)


_OBJECT = re.compile(
    rf"The ({'|'.join(PLACES)}) shows an? ({'|'.join(COLOURS)}) ({'|'.join(CATEGORIES)})"
)
_EMPTY = re.compile(rf"The ({'|'.join(PLACES)}) is empty")
_SETTING = re.compile(rf"The scene is a ({'|'.join(SETTINGS)})")


def parse(text: str) -> Claim | None:
    """The claim of one sentence, or None where it is not a sentence of this language."""
    text = text.strip().removesuffix(".")
    if found := _OBJECT.fullmatch(text):
        place, colour, category = found.groups()
        return ObjectClaim(category, colour, place)
    if found := _EMPTY.fullmatch(text):
        return EmptyClaim(found[1])
    if found := _SETTING.fullmatch(text):
        return SettingClaim(found[1])
    return None


def claim_of(thing: SceneObject) -> ObjectClaim:
    """What a true sentence says of an object."""
    return ObjectClaim(thing.category, thing.colour, thing.place)


def claim_at(scene: Scene, place: str) -> Claim:
    """What a true sentence says of a place."""
    thing = scene.at(place)
    return EmptyClaim(place) if thing is None else claim_of(thing)


def true_sentences(scene: Scene, places: Iterable[str] = PLACES) -> list[str]:
    """True sentences about a scene: the setting, then these places, all nine in reading order."""
    claims = [SettingClaim(scene.setting), *(claim_at(scene, place) for place in places)]
    return [sentence(claim) for claim in claims]


def mentioned_places(scene: Scene, rng: random.Random) -> list[str]:
    """The places a description speaks of: all with an object, some of the empty ones."""
    return [place for place in PLACES if scene.at(place) or rng.random() < EMPTY_SHARE]


def perfect_caption(scene: Scene, rng: random.Random) -> str:
    """A description in which everything is true."""
    return " ".join(true_sentences(scene, mentioned_places(scene, rng)))


def presence_question(category: str) -> str:
    """POPE's question about one category."""
    return f"Is there {with_article(category)} in the image?"


def facts(scene: Scene) -> list[str]:
    """Statements for SHR's judge that the regions do not spell out."""
    count = f"There are {NUMBER_WORDS[len(scene.objects)]} objects in the image."
    empty = [sentence(EmptyClaim(place)) for place in PLACES if not scene.at(place)]
    return [count, sentence(SettingClaim(scene.setting)), *empty]
