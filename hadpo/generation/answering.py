"""Questions in, answers out: grouped by image, several images at once."""

import gc
import logging
import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.std import tqdm

from hadpo.generation.beam import decode_beams
from hadpo.generation.decoding import Decoding
from hadpo.generation.room import batch_that_fits
from hadpo.generation.server import Served
from hadpo.generation.single import decode_single
from hadpo.images import read_image
from hadpo.records import Answer, BadInput, Question
from hadpo.vlm.backbone import Backbone

log = logging.getLogger(__name__)

_LOG_SECONDS = 30.0  # between two lines of the log
Asked = dict[str, list[Question]]  # text -> the questions that ask it about one image


def generate(
    backbone: Backbone | Served,
    questions: Iterable[Question],
    decoding: Decoding,
    *,
    prompt: Literal["train", "evaluate"] = "evaluate",
    batch_questions: int = 16,
    batch_memory_gib: float = 0.0,
    model: str,
    done: Collection[str] = frozenset(),
    exact: bool = False,
) -> Iterator[Answer]:
    """Answers, in the order of the images' first appearance, as soon as their batch is done.

    Args:
        backbone: on its device, in evaluation mode; or a model on a server, which has a prompt and
            batches of its own.
        questions: of any benchmark and split; the same text about the same image is answered once;
            `image` "" is a question without one.
        decoding: how tokens are chosen.
        prompt: which of the backbone's two prompts.
        batch_questions: questions side by side (with beams, so many times the rows); 0: as many as
            fit; halved if memory runs out.
        batch_memory_gib: what they may take if their number is 0; 0: most of what is free.
        model: name that the answers carry.
        done: ids of questions that are answered already; they are left out.
        exact: one question at a time, nothing shared between questions: slow, and the reference.

    Raises:
        BadInput: image files that are missing (all are listed) or cannot be read.
    """
    if batch_questions < 0:
        raise BadInput(f"batch_questions is 0 (as many as fit) or more, found {batch_questions}")
    if decoding.stop_at and not isinstance(backbone, Served) and not backbone.is_text_final:
        raise BadInput(
            f"decoding {decoding.name!r} stops at {decoding.stop_at!r}, but this backbone's later "
            "words may replace its first ones: answers would change; turn the stop off"
        )
    by_image: dict[str, Asked] = {}
    for question in questions:
        if question.question_id not in done:
            by_image.setdefault(question.image, {}).setdefault(question.text, []).append(question)
    missing = [image for image in by_image if image and not Path(image).is_file()]
    if missing:
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise BadInput(f"{len(missing)} image files are missing: {', '.join(missing[:20])}{more}")
    if not by_image:
        return
    if isinstance(backbone, Served):
        left = [q for asked in by_image.values() for same in asked.values() for q in same]
        yield from backbone.answers(left, decoding, model=model)
        return
    if exact:
        batch_questions = 1
        waiting = deque(_one_by_one(by_image))
    else:
        batch_questions = batch_questions or batch_that_fits(backbone, decoding, batch_memory_gib)
        waiting = deque(_together(by_image, batch_questions))
    progress = Progress(f"{model}, {decoding.name}", len(by_image))
    try:
        while waiting:
            group = waiting.popleft()
            answered: set[str] = set()
            try:
                for question, ids in _answer_group(
                    backbone, group, decoding, prompt, batch_questions
                ):
                    yield _answer(backbone, question, ids, decoding, model)
                    answered.add(question.question_id)
                progress.done(group)
                continue
            except torch.OutOfMemoryError:
                if batch_questions == 1:
                    raise
            # Outside of the handler, whose traceback holds on to what filled the memory.
            batch_questions //= 2
            log.warning("out of memory: %d questions at a time from here on", batch_questions)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            waiting = deque(_together(_left([group, *waiting], answered), batch_questions))
    finally:
        progress.close()


def _answer(
    backbone: Backbone, question: Question, ids: list[int], decoding: Decoding, model: str
) -> Answer:
    text = backbone.decode(ids).strip()
    stopped = bool(decoding.stop_at) and decoding.stop_at in text
    return Answer(
        question_id=question.question_id,
        benchmark=question.benchmark,
        split=question.split,
        model=model,
        image_id=question.image_id,
        text=text,
        tokens=len(ids),
        finish="stop" if stopped or backbone.ends(torch.tensor(ids)) else "length",
    )


def _left(groups: Iterable[dict[str, Asked]], answered: set[str]) -> dict[str, Asked]:
    """The images of all groups, without questions that were answered before memory ran out."""
    open_images: dict[str, Asked] = {}
    for group in groups:
        for image, asked in group.items():
            for text, questions in asked.items():
                left = [q for q in questions if q.question_id not in answered]
                if left:
                    open_images.setdefault(image, {}).setdefault(text, []).extend(left)
    return open_images


def _one_by_one(by_image: dict[str, Asked]) -> Iterator[dict[str, Asked]]:
    """Each question alone, also those that repeat another."""
    for image, asked in by_image.items():
        for text, questions in asked.items():
            for question in questions:
                yield {image: {text: [question]}}


def _together(by_image: dict[str, Asked], batch: int) -> Iterator[dict[str, Asked]]:
    """Images whose questions fit into one batch; an image with more of them stands alone.

    So do questions without an image: their prompt is another one.
    """
    group: dict[str, Asked] = {}
    rows = 0
    for image, asked in by_image.items():
        if group and (rows + len(asked) > batch or "" in (image, *group)):
            yield group
            group, rows = {}, 0
        group[image] = asked
        rows += len(asked)
    if group:
        yield group


def _answer_group(
    backbone: Backbone,
    group: dict[str, Asked],
    decoding: Decoding,
    prompt: Literal["train", "evaluate"],
    batch: int,
) -> Iterator[tuple[Question, list[int]]]:
    """Every question of a group of images with its generated ids."""
    rows = [(image, text) for image, asked in group.items() for text in asked]
    image_of = [index for index, asked in enumerate(group.values()) for _ in asked]
    pixels: Any = None
    if "" in group:
        ids = [backbone.text_ids(text, prompt=prompt) for _, text in rows]
    else:
        ids = [backbone.prefix(text, image, prompt=prompt) for image, text in rows]
        pixels = backbone.stack([backbone.preprocess(read_image(image)) for image in group])
    read = backbone.reader(ids, [text for _, text in rows], pixels, image_of)
    for at in range(0, len(rows), batch):
        some = range(at, min(at + batch, len(rows)))
        logits, state = read(some)
        if decoding.beams > 1:
            generated = decode_beams(backbone, logits, state, decoding)
        else:
            names = [f"{Path(rows[row][0]).name}/{rows[row][1]}" for row in some]
            generated = decode_single(backbone, logits, state, decoding, names)
        for row, answer_ids in zip(some, generated, strict=True):
            image, text = rows[row]
            for question in group[image][text]:
                yield question, answer_ids


class Progress:
    """Images that are done, how fast, and when the rest will be: a bar, or lines of the log.

    The bar is for a terminal; without one, the log gets a line every `seconds`.
    """

    def __init__(self, model: str, images: int, *, seconds: float = _LOG_SECONDS) -> None:
        self._model, self._total, self._every = model, images, seconds
        self._done: set[str] = set()
        self._start = self._logged = time.monotonic()
        self._bar = tqdm(
            total=images,
            desc=model,
            unit="image",
            disable=not sys.stderr.isatty(),
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {rate_fmt}, "
            "{remaining} left",
        )

    def done(self, images: Collection[str]) -> None:
        """All questions about these images are answered."""
        new = set(images) - self._done
        self._done |= new
        self._bar.update(len(new))
        now = time.monotonic()
        if self._bar.disable and (now - self._logged >= self._every or self._is_over) and new:
            self._logged = now
            log.info("%s", self.text(now))

    def text(self, now: float) -> str:
        """A sentence: how many of how many, how fast, how long still."""
        rate = len(self._done) / max(now - self._start, 1e-9)
        left = (self._total - len(self._done)) / rate if rate else 0.0
        end = "done" if self._is_over else f"about {_span(left)} left"
        done = f"{len(self._done)} of {self._total} images"
        return f"{self._model}: {done}, {rate:.2f} images/s, {end}"

    def close(self) -> None:
        """Leave the terminal as it is."""
        self._bar.close()

    @property
    def _is_over(self) -> bool:
        return len(self._done) >= self._total


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
