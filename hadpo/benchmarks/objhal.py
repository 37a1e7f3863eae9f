"""Object HalBench: invented objects in detailed descriptions; a language model lists the objects.

The judge only reads: it lists what an answer names. spaCy reads these phrases, and COCO's instances
and captions say what is there. The share of answers with an invented object is over answers that
name an object of COCO, not over all. A reply is read as the original reads it, JSON or a last line
of JSON; where that fails, the original asks again, and we take the one list in it, and count that.
Source: RLHF-V/RLAIF-V eval/eval_gpt_obj_halbench.py at 83d917b.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Form, Known, Measure, Tally, _english, alone, only_verdict, ruled
from hadpo.benchmarks._english import WordsName
from hadpo.benchmarks._objects import PhraseReader, named, official_list, tolerant_list
from hadpo.benchmarks._tally import evidence_of
from hadpo.config import STRICT, AtLeastOne, When
from hadpo.data import Sources, chair, coco
from hadpo.data import objhal as data
from hadpo.judges import Rubric, texts_of
from hadpo.judges.oracle import Oracle
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput, Case, Evidence, Question, Verdict
from hadpo.text import word_count

WHOLE = data.SPLIT
FILES = {
    "objhal": ("Object HalBench", ("",)),
    "objhal_synonyms": ("Object HalBench synonyms", ("",)),
    "objhal_annotations": ("COCO annotations", coco.FILES),
}
FORMS = (
    Form(
        name="Object HalBench's, with the list of objects",
        example='{"image_id": 42, "answer": "A dog on a couch.", "extraction_reply": "[]"}',
        answer=("answer", "text"),
        needs=("image_id", "extraction_reply"),
        id=("image_id",),
        asked=("question",),
        replies={"objhal": ("extraction_reply",)},
    ),
)
SHOWN = ("objhal_parser", "objhal_words")  # settings that stand beside every number
LISTED = ((WHOLE, "response_hall"), (WHOLE, "mention_hall"))
BARS = {"response_hall": "answers with an invented object", "mention_hall": "invented objects"}
SHORT = 3  # words of an answer that names nothing
MEASURES = (
    Measure("response_hall", "Object HalBench: answers", better="lower", is_read=True),
    Measure("mention_hall", "Object HalBench: mentions", better="lower", is_read=True),
    Measure("words_per_answer", "words per answer", "number"),
    Measure("object_recall", "true objects named", better="higher", is_read=True),
    Measure("chair_s", "of all answers", better="lower", is_headline=False, is_read=True),
    Measure("with_objects", "answers that name an object", is_headline=False, is_read=True),
    Measure("readings_differ", "replies read in two ways", "count", is_headline=False),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Where the files lie; the photos are those of data.coco."""

    objhal: str = ""  # your file obj_halbench_300_with_image.jsonl
    objhal_synonyms: Annotated[str, When.given("data", "objhal")] = ""  # synonyms_refine.txt
    # Folder with instances and captions of train2014 and val2014.
    objhal_annotations: Annotated[str, When.given("data", "objhal")] = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """How answers are generated, and how words are read."""

    objhal_beams: AtLeastOne = 1  # 1: greedy; RLHF-V and RLAIF-V: 3
    objhal_max_new_tokens: AtLeastOne = 1024  # a description
    # spaCy's model that reads phrases; another than this one is named beside every number. Empty:
    # what reads captions reads them too.
    objhal_parser: str = "en_core_web_trf"
    # What tokenizes and lemmatizes captions: nltk, or a table of the mini world's words.
    objhal_words: WordsName = "nltk"


def questions(sources: Sources) -> list[Question]:
    """The questions in file order."""
    path = sources.note(sources.resolve(sources.data.objhal))
    return data.questions(path, sources.resolve(sources.data.coco), sources.report)


def evidence(sources: Sources) -> dict[str, Evidence]:
    """The photos with their objects and captions."""
    ids = data.image_ids(sources.resolve(sources.data.objhal))
    section = sources.data
    folder, photos = (sources.resolve(p) for p in (section.objhal_annotations, section.coco))
    known = coco.annotated(folder, photos, ids, sources.report)
    keys = [f"objhal-{number}" for number in ids]
    return {k: replace(e, image_id=k) for k, e in zip(keys, known.values(), strict=True)}


def vocabulary(sources: Sources) -> dict[str, Any]:
    """The synonyms, for vocabulary.json."""
    path = sources.note(sources.resolve(sources.data.objhal_synonyms))
    return {"lexicons": {"objhal": chair.synonyms(path, sources.report)}}


def readings(settings: Settings) -> dict[str, str]:
    """What reads phrases and captions."""
    parser = _english.named_model(settings.objhal_parser, "no parser")
    return {"": f"phrases by {parser}, captions by {settings.objhal_words}"}


def cases(
    answers: Iterable[Answer],
    questions: Mapping[str, Question],
    evidence: Mapping[str, Evidence],
    settings: Settings,
) -> list[Case]:
    """A case per answer of more than three words; about shorter ones nobody is asked."""
    long = [answer for answer in answers if len(said(answer.text).split()) > SHORT]
    return [alone(a, "objhal", (), question=questions[a.question_id].text) for a in long]


def said(answer: str) -> str:
    """The text that is scored."""
    return answer.replace("Assistant:", "").strip()


def slots(case: Case) -> dict[str, str]:
    """What fills a prompt; ours calls the answer {claims}, the official one {answer}."""
    text = said(case.claims[0])
    return {"question": case.question, "claims": text, "answer": text}


def read_objects(reply: str, case: Case) -> list[Verdict]:
    """One verdict, "scored" if the reply is a list; it keeps the reply."""
    return ruled(case, "unparsed" if tolerant_list(reply) is None else "scored", {}, reply)


def list_by_annotations(oracle: Oracle, case: Case) -> list[Verdict]:
    """The objects of the vocabulary that an answer names."""
    names = [mention.name for mention in oracle.vocabulary.read(case.claims[0]).mentions]
    return ruled(case, "scored", {}, json.dumps(names))


RUBRICS = (
    Rubric(
        name="objhal",
        **texts_of(Path(__file__).parent, "objhal"),
        read=read_objects,
        slots=slots,
        needs=("claims/answer",),
        by_annotations=list_by_annotations,
    ),
)


def check(settings: Settings) -> None:
    """Raise BadInput if nltk or spaCy is not there."""
    _english.check(settings.objhal_words, settings.objhal_parser)


def resources(vocabulary: Vocabulary, settings: Any) -> PhraseReader:
    """The reader; BadInput if synonyms, nltk or spaCy are not there.

    Phrases are read by a model of spaCy, or, without one, as captions are.
    """
    if "objhal" not in vocabulary.lexicons:
        raise BadInput("Object HalBench needs its synonyms: run prepare again, with data.objhal")
    synonyms = vocabulary.lexicons["objhal"]
    return PhraseReader.load(synonyms, settings.objhal_words, settings.objhal_parser)


def tally(answer: Answer, known: Known) -> Tally:
    """What one description adds to the sums."""
    text, words = said(answer.text), known.resources
    photo = evidence_of(answer.image_id, known.evidence)
    is_long = len(text.split()) > SHORT
    reply = only_verdict(answer, known).raw if is_long else "[]"
    phrases = tolerant_list(reply)
    nodes = [node for _, _, node in named(words.objects(phrases or []), words.synonyms)]
    present, is_read = words.present(photo), phrases is not None
    wrong = sum(node not in present for node in nodes)
    right = {*nodes} & present
    return {
        "response_hall": (wrong > 0, bool(nodes)),
        "mention_hall": (wrong, len(nodes)),
        "words_per_answer": (word_count(text), 1),
        "object_recall": (len(right), len(present) if is_read else 0),
        "chair_s": (wrong > 0, is_read),
        "with_objects": (bool(nodes), is_read),
        "readings_differ": (official_list(reply) != phrases, 1),
    }
