"""Pictures to begin with, of which something is known, and who rules on what is said of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from hadpo import config, mini, plugins
from hadpo.chat import ChatSettings, cache_file
from hadpo.judges import Judge, JudgeSettings
from hadpo.judges.oracle.vocabulary import Vocabulary, from_json
from hadpo.mini import Exhibit
from hadpo.mini.files import vocabulary
from hadpo.records import BadInput, Evidence, Question, read_jsonl

ASKS_NOBODY = "oracle"
DESCRIBE = "Describe this image in detail."
ANYWHERE = (  # for pictures that bring no questions: ask about what is not there
    DESCRIBE,
    "Is there a dog in the image?",
    "What colour is the umbrella that the child holds?",
    "What does the sign behind the elephant say?",
)
MOST_PICTURES = 12
# A visitor waits for the judge; a run waits longer and tries more often.
TIMEOUT_SECONDS, RETRIES = 30.0, 1


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """What lies there for visitors; `judge` makes a judge that knows nothing of earlier failures.

    `words` are what a bare yes or no is read by: it claims the thing that the question names.
    """

    exhibits: Sequence[Exhibit]
    explanation: str
    words: Vocabulary
    judge: Callable[[], Judge]


def shelf_of(recipe: str, run: str = "", judge: str = ASKS_NOBODY, judge_model: str = "") -> Shelf:
    """The pictures of a run, or those drawn for the mini models, and the judge.

    Args:
        recipe: whose model is shown; a mini model brings drawn pictures.
        run: a run with a finished stage prepare; its pictures stand there instead. "": none.
        judge: a module of hadpo.judges.
        judge_model: the language model of a judge that asks one.

    Raises:
        BadInput: no such run, picture or judge, or nothing that could be judged.
    """
    is_mini = recipe.startswith("mini/")
    prepared = _prepared(run) if run else None
    exhibits = _exhibits(prepared) if prepared else mini.gallery(MOST_PICTURES) if is_mini else []
    if judge != ASKS_NOBODY and not exhibits:
        raise BadInput(f"judge {judge} has no picture of which anything is known: name a --run")
    file = prepared / "vocabulary.json" if prepared else None
    words = from_json(json.loads(file.read_text("utf-8")) if file else vocabulary())
    make = _judge(judge, judge_model, words)
    whose = f"what the annotations of run {run} say" if run else "everything"
    ruler = f"judge {judge} ({judge_model})" if judge_model else f"the {judge}"
    said = [
        f"Of the pictures below {whose} is known, and {ruler} rules by it: ✓ is true, ✗ is wrong, "
        "? cannot be judged."
        if exhibits
        else "",
        "Of a picture that you upload nothing is known, so nothing is judged.",
        "The left model was taught to invent; it shows the method and is no evidence about real "
        "models."
        if is_mini
        else "",
    ]
    return Shelf(exhibits=exhibits, explanation=" ".join(said), words=words, judge=make)


def _judge(name: str, model: str, words: Vocabulary) -> Callable[[], Judge]:
    """Makes the judge; it was made once, so that wrong settings end the start and no answer."""
    module = plugins.load("hadpo.judges", name)
    settings = JudgeSettings()
    if name != ASKS_NOBODY:
        chat = ChatSettings(
            model=model, timeout_seconds=TIMEOUT_SECONDS, retries=RETRIES, prefix="judge_"
        )
        settings = JudgeSettings(chat=chat, replies=cache_file())
    elif model:
        raise BadInput(f"judge {name} asks no language model; leave --judge-model out, or --judge")
    first = module.make(vocabulary=words, settings=settings)
    if name == ASKS_NOBODY:
        return lambda: first
    return lambda: module.make(vocabulary=words, settings=settings)


def _prepared(run: str) -> Path:
    """The folder of a run's finished stage prepare."""
    root = config.runs_folder()
    names = ("questions.jsonl", "evidence.jsonl", "vocabulary.json")
    found = root / run / "prepare"
    if missing := [name for name in names if not (found / name).is_file()]:
        known = [path.parents[1].name for path in root.glob("*/prepare/evidence.jsonl")]
        raise BadInput(
            f"run {run!r} in {root} has no prepare/{', '.join(missing)}, which say what is on its "
            f"pictures; {plugins.choices(run, known)}"
        )
    return found


def _exhibits(prepared: Path) -> list[Exhibit]:
    """The first pictures that a run asks about and that people described, its questions first.

    Lists of objects alone, as POPE has them, are no ground to judge a description by.
    """
    every = read_jsonl(prepared / "evidence.jsonl", Evidence)
    known = {e.image_id: e for e in every if e.regions or e.facts}
    asked: dict[str, dict[str, None]] = {}
    files: dict[str, str] = {}
    for question in read_jsonl(prepared / "questions.jsonl", Question):
        if question.image_id in known:
            asked.setdefault(question.image_id, {})[question.text] = None
            files[question.image_id] = question.image
    if not asked:
        raise BadInput(
            f"{prepared}: no question is about a picture with regions or facts in evidence.jsonl"
        )
    return [
        Exhibit(
            name,
            _open(Path(files[name])),
            known[name],
            tuple(dict.fromkeys((*islice(texts, 3), *ANYWHERE))),
        )
        for name, texts in islice(asked.items(), MOST_PICTURES)
    ]


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise BadInput(f"{path}: no readable picture ({error}); prepare the run anew") from error
