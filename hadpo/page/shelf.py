"""What is ready for visitors: two models, pictures of which something is known, and a judge."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hadpo import adapter, backbones, config, mini, plugins
from hadpo.chat import ChatSettings, cache_file
from hadpo.generation import Decoding, Turn, stream
from hadpo.images import read_image
from hadpo.judges import Judge, JudgeSettings
from hadpo.judges.oracle.vocabulary import Vocabulary, from_json
from hadpo.mini import Exhibit
from hadpo.mini.files import vocabulary
from hadpo.records import BadInput, Evidence, Question, read_json, read_jsonl
from hadpo.vlm.backbone import Backbone

ASKS_NOBODY = "oracle"
DESCRIBE = "Describe this image in detail."
ANYWHERE = (  # for pictures without questions of their own: they ask about what is not there
    DESCRIBE,
    "Is there a dog in the image?",
    "What colour is the umbrella that the child holds?",
    "What does the sign behind the elephant say?",
)
MOST_PICTURES = 12
# A visitor waits for the judge; a run waits longer and tries more often.
TIMEOUT_SECONDS, RETRIES = 30.0, 1
MOST_ASKED = 500  # requests to a judge without a limit in dollars
MINI_ADAPTER = config.PACKAGE / "mini" / "weights" / "llava" / "dpo-adapter"


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Pictures and a judge for all visitors.

    `judge` makes a new judge, so that a failure does not stop later answers from being judged;
    `words` say what a bare yes or no claims: the thing that the question names.
    """

    exhibits: Sequence[Exhibit]
    explanation: str
    words: Vocabulary
    judge: Callable[[], Judge]


def shelf_of(
    recipe: str,
    run: str = "",
    judge: str = ASKS_NOBODY,
    judge_model: str = "",
    limits: Mapping[str, Any] = MappingProxyType({}),
) -> Shelf:
    """The pictures of a run, or those drawn for a mini recipe, and the judge.

    `limits` are fields of `ChatSettings`: the judge's prices, and what it may cost in all.

    Raises:
        BadInput: no such run, picture or judge, or nothing that could be judged.
    """
    is_mini = recipe.startswith("mini/")
    prepared = _prepared(run) if run else None
    exhibits = _exhibits(prepared) if prepared else mini.gallery(MOST_PICTURES) if is_mini else []
    if judge != ASKS_NOBODY and not exhibits:
        raise BadInput(f"judge {judge} has no picture of which anything is known: name a --run")
    file = prepared / "vocabulary.json" if prepared else None
    again = "run stage prepare again"
    words = from_json(read_json(file, dict, expected=again) if file else vocabulary())
    make = _judge(judge, judge_model, words, limits)
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


def _judge(
    name: str, model: str, words: Vocabulary, limits: Mapping[str, Any]
) -> Callable[[], Judge]:
    """What makes the judge; it makes one now, so that wrong settings are refused at the start.

    All that it makes share one bill, and with it the limit.
    """
    module = plugins.load("hadpo.judges", name)
    settings = JudgeSettings()
    if name != ASKS_NOBODY:
        patience: Any = {"timeout_seconds": TIMEOUT_SECONDS, "retries": RETRIES}
        chat = ChatSettings(model=model, prefix="judge_", **patience, **limits)
        settings = JudgeSettings(chat=chat, replies=cache_file())
    elif model or any(limits.values()):
        raise BadInput(
            f"judge {name} asks no language model; leave --judge-model and its limits out, or "
            "name --judge llm"
        )
    first = module.make(vocabulary=words, settings=settings)
    if name == ASKS_NOBODY:
        return lambda: first
    bill, has_limit = first.chat.bill, limits.get("max_cost_usd", 0.0) > 0

    def make() -> Judge:
        if not has_limit and bill.asked >= MOST_ASKED:
            raise BadInput(
                f"the judge was asked {bill.asked} times since the page was opened, and has no "
                "limit in dollars: name --judge-max-cost-usd and its prices, or open it again"
            )
        judge = module.make(vocabulary=words, settings=settings)
        judge.chat.bill = bill
        return judge

    return make


def _prepared(run: str) -> Path:
    """The folder of a run's finished stage prepare."""
    root = config.runs_folder()
    folder, names = root / run / "prepare", ("questions.jsonl", "evidence.jsonl", "vocabulary.json")
    if missing := [name for name in names if not (folder / name).is_file()]:
        known = [path.parents[1].name for path in root.glob("*/prepare/evidence.jsonl")]
        raise BadInput(
            f"run {run!r} in {root} has no prepare/{', '.join(missing)}, which say what is on its "
            f"pictures; {plugins.choices(run, known)}"
        )
    return folder


def _exhibits(prepared: Path) -> list[Exhibit]:
    """The first pictures that a run asks about and that people described, with their questions.

    A list of objects alone, as POPE has it, is not enough to judge a description.
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
    exhibits = []
    for name, texts in islice(asked.items(), MOST_PICTURES):
        questions = tuple(dict.fromkeys((*islice(texts, 3), *ANYWHERE)))
        exhibits.append(Exhibit(name, read_image(files[name]), known[name], questions))
    return exhibits


@dataclass(frozen=True, eq=False)
class Speaker:
    """A model with a name; `lock` is shared with a speaker that has the same weights."""

    title: str
    backbone: Backbone
    lock: threading.Lock
    has_adapter: bool  # attached to the backbone, by this speaker or by the other
    is_tuned: bool  # speaks with the adapter on

    @property
    def takes_more(self) -> bool:
        """Whether a conversation may have several questions."""
        return self.backbone.PROMPTS.again is not None

    @property
    def takes_images(self) -> bool:
        """Whether a conversation may have several images."""
        return self.backbone.PROMPTS.again_image is not None

    def answer(self, turns: Sequence[Turn], decoding: Decoding) -> Iterator[tuple[str, bool]]:
        """The answer so far, after every token; between tokens the other may use the weights."""
        steps = stream(self.backbone, turns, decoding)
        while True:
            with self.lock, self._voice():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _voice(self):
        is_silenced = self.has_adapter and not self.is_tuned
        return adapter.disabled(self.backbone) if is_silenced else nullcontext()


def speakers(recipe: str, tuned: str, against: str) -> tuple[Speaker, Speaker]:
    """The models of the left and the right side, which speaks with the adapter `tuned`.

    Raises:
        BadInput: no such recipe, adapter or run, files are missing, or there are no two models.
    """
    right = _load(recipe)
    folder = adapter_folder(tuned, recipe)
    if folder is None and not against:
        raise BadInput(
            f"recipe {recipe} alone is one model; name an --adapter (a folder, or a run), or "
            "another recipe with --against"
        )
    if folder is not None:
        adapter.load(right, folder)
    lock = threading.Lock()
    name = f"{right.name}, tuned" if folder else right.name
    second = Speaker(name, right, lock, folder is not None, folder is not None)
    if against:
        left = _load(against)
        return Speaker(left.name, left, threading.Lock(), False, False), second
    return Speaker(f"{right.name}, base", right, lock, True, False), second


def adapter_folder(tuned: str, recipe: str) -> Path | None:
    """The folder of an adapter, by its own name or that of its run; None if there is none."""
    if not tuned:
        return MINI_ADAPTER if recipe == "mini/llava" else None
    for place in (Path(tuned), config.runs_folder() / tuned / "train" / "adapter"):
        if (place / "adapter_config.json").is_file():
            return place
    trained = config.runs_folder().glob("*/train/adapter/adapter_config.json")
    names = [path.parents[2].name for path in trained]
    raise BadInput(
        f"no adapter {tuned!r}: it is no folder with adapter_config.json and no run with one; "
        f"runs: {plugins.choices(tuned, names)}"
    )


def _load(name: str) -> Backbone:
    recipe = config.load_recipe(name)
    return backbones.load_for(recipe, backbones.files_of(recipe, config.resolve_path))
