"""POPE and SHR questions, ours against one question at a time with transformers' `generate`.

Prints, and writes as JSON, how many times less processor time our engine takes for the same
answers. Everything is measured on this machine, one thread, several rounds, the ways one after the
other within a round; a ratio is the median over the rounds.
"""

import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from hadpo.generation import Decoding, generate
from hadpo.mini.world import CATEGORIES
from hadpo.records import BadInput, Question
from hadpo.text import article
from hadpo.vlm.backbone import Backbone
from tools.speed import measure as timing
from tools.speed import models, results
from tools.speed.bars import speedup_bars
from tools.speed.models import Geometry

POPE = Decoding(name="pope", max_new_tokens=16)
STOPPED = Decoding(name="pope, stopped", max_new_tokens=16, stop_at=".")
SHR = Decoding(name="shr", beams=5, max_new_tokens=24)
SPLITS = ("random", "popular", "adversarial")
TOKENS_BEFORE_STOP = 8  # of 16: about where "Yes, there is a cup in the image." ends
_CERTAIN = 1.0e4  # a logit that wins


def command(
    json_file: Annotated[Path, typer.Option("--json", help="file; the figure goes beside it")],
    images: Annotated[int, typer.Option(help="pictures to ask about", min=1)] = 2,
    rounds: Annotated[int, typer.Option(help="interleaved rounds", min=1)] = 3,
) -> None:
    """Answers of the engine beside those of one question at a time: equal, and how much faster.

    Example: python -m tools.speed evaluate --json speed.json
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), images=images, rounds=rounds)
    results.save_json(found, json_file)
    _draw(found, json_file)
    if not found["equal_answers"]:
        raise BadInput("the engine's answers differ from those of one question at a time")


def measure(folder: Path, *, images: int, rounds: int, geometry: Geometry = models.TALKING) -> dict:
    """Answers and times of every way; see `command`."""
    backbone = models.talking(geometry)
    pictures = [_picture(folder / f"{number}.png", number) for number in range(images)]
    pope = [q for path in pictures for q in _pope(path)]
    shr = [_question(path, "shr", "val", "Describe this image in detail.") for path in pictures * 2]
    never_end(backbone)
    lengths = [len(prompt_ids(backbone, q)) for q in pope]
    position = round(statistics.mean(lengths)) + TOKENS_BEFORE_STOP - 1
    say_period_at(backbone, position)
    ways: dict[str, Callable[[], list[str]]] = {
        "sequential": lambda: one_by_one(backbone, pope, POPE, position),
        "ours": lambda: ours(backbone, pope, POPE),
        "ours, stopped": lambda: ours(backbone, pope, STOPPED),
        "sequential, 5 beams": lambda: one_by_one(backbone, shr, SHR, position),
        "ours, 5 beams": lambda: ours(backbone, shr, SHR),
    }
    answers: dict[str, list[str]] = {}

    def taken(name: str) -> Callable[[], None]:
        return lambda: answers.update({name: ways[name]()})

    seconds = timing.seconds({name: taken(name) for name in ways}, rounds=rounds)

    def times(slow: str, fast: str) -> float:
        return round(timing.ratio(seconds[slow], seconds[fast])["median"], 2)

    beginnings = [text.partition(".")[0] for text in answers["sequential"]]
    same = {
        "pope": sum(a == b for a, b in zip(answers["sequential"], answers["ours"], strict=True)),
        "pope_stop": sum(
            a == b.partition(".")[0]
            for a, b in zip(beginnings, answers["ours, stopped"], strict=True)
        ),
        "beam5": sum(
            a == b
            for a, b in zip(answers["sequential, 5 beams"], answers["ours, 5 beams"], strict=True)
        ),
    }
    total = {"pope": len(pope), "pope_stop": len(pope), "beam5": len(shr)}
    return {
        "equal_answers": same == total,
        "vs_sequential": times("sequential", "ours"),
        "vs_sequential_stop": times("sequential", "ours, stopped"),
        "beam5_vs_sequential": times("sequential, 5 beams", "ours, 5 beams"),
        "equal": same,
        "questions": total,
        "distinct_answers": len(set(answers["sequential"])),
        "seconds": {name: [round(s, 3) for s in each] for name, each in seconds.items()},
        "prompt_tokens": statistics.mean(lengths),
        "tokens_to_the_period": position + 1 - statistics.mean(lengths),
        "geometry": vars(geometry),
        "machine": f"{platform.system()} {platform.machine()}, 1 thread, processor time",
        "versions": {"torch": torch.__version__},
    }


def ours(backbone: Backbone, questions: Sequence[Question], decoding: Decoding) -> list[str]:
    """Texts in the order of the questions, by the engine as `04_evaluate` calls it."""
    found = generate(backbone, questions, decoding, model="random", batch_questions=64)
    texts = {answer.question_id: answer.text for answer in found}
    return [texts[question.question_id] for question in questions]


@torch.no_grad()
def one_by_one(
    backbone: Backbone, questions: Sequence[Question], decoding: Decoding, position: int
) -> list[str]:
    """Texts by transformers' `generate`: each question with its own image and its own prompt."""
    found = []
    for question in questions:
        with Image.open(question.image) as image:
            pixels = backbone.preprocess(image)[None]
        ids = prompt_ids(backbone, question)
        tokens = backbone.image_tokens(pixels, [question.text])
        embeds = backbone.embed(torch.tensor([ids]), tokens)
        model: Any = backbone.language_model
        out = model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=decoding.max_new_tokens,
            num_beams=decoding.beams,
            do_sample=False,
            pad_token_id=0,
            use_cache=True,
            logits_processor=LogitsProcessorList([_Period(backbone, position, len(ids))]),
        )
        found.append(backbone.decode(out[0].tolist()).strip())
    return found


def prompt_ids(backbone: Backbone, question: Question) -> list[int]:
    """One id per position of a question's prompt."""
    return backbone.expand(backbone.prompt_ids(question.text, prompt="evaluate"))


def never_end(backbone: Any) -> None:
    """No answer ends by itself, so every way generates the same number of tokens."""
    backbone.ends = lambda ids: torch.zeros(ids.shape[:-1], dtype=torch.bool)
    backbone.language_model.generation_config.eos_token_id = None


def say_period_at(backbone: Any, position: int) -> None:
    """Every row's token at one place of the sequence is a period, as if the answer ended there."""
    period, read = period_id(backbone), backbone.extend

    def extend(state: Any, ids: Any) -> Any:
        logits, grown = read(state, ids)
        is_there = (grown.lengths == position).repeat_interleave(len(logits) // len(grown))  # beams
        logits[is_there, period] = _CERTAIN
        return logits, grown

    backbone.extend = extend


class _Period(LogitsProcessor):
    """The same for transformers' `generate`."""

    def __init__(self, backbone: Backbone, position: int, read: int) -> None:
        self._period, self._step = period_id(backbone), position - read

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if input_ids.shape[1] == self._step:
            scores[:, self._period] = _CERTAIN
        return scores


def period_id(backbone: Backbone) -> int:
    """The piece "." of the tokenizer."""
    return backbone.tokenizer.encode("a.")[-1]


def _picture(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize((640, 480)).save(path)
    return path


def _pope(path: Path) -> list[Question]:
    """Three splits of six questions; the three positives are in all of them, as in POPE."""
    names = list(CATEGORIES)
    found = []
    for place, split in enumerate(SPLITS):
        for name in names[:3] + names[3 + 3 * place : 6 + 3 * place]:
            text = f"Is there {article(name)} {name} in the image?"
            found.append(_question(path, "pope", split, text))
    return found


def _question(path: Path, benchmark: str, split: str, text: str) -> Question:
    return Question(
        question_id=f"{benchmark}-{split}-{path.stem}-{text}",
        benchmark=benchmark,
        split=split,
        image_id=path.stem,
        image=str(path),
        text=text,
    )


def _draw(found: dict, path: Path) -> None:
    rows = {
        "POPE, 16 tokens an answer": found["vs_sequential"],
        "POPE, up to the first period": found["vs_sequential_stop"],
        "descriptions, 5 beams": found["beam5_vs_sequential"],
    }
    note = f"Random weights at LLaVA's lengths; {found['machine']}."
    speedup_bars(rows, name=path.stem, note=note).save(path.parent)
