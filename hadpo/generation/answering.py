"""Questions in, answers out: grouped by image, several images at once."""

import gc
import logging
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from tqdm.std import tqdm

from hadpo import cost
from hadpo.generation.beam import decode_beams
from hadpo.generation.decoding import Decoding
from hadpo.generation.server import Served
from hadpo.generation.single import decode_single
from hadpo.records import Answer, BadInput, Question
from hadpo.vlm.backbone import Backbone

log = logging.getLogger(__name__)

_LOG_SECONDS = 30.0  # between two lines of the log
MOST = 128  # more rows than this make no device busier
_SHARE = 0.8  # of what is free; the rest is for fragments and for what others do
Row = list[Question]  # that ask the same about the same image


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
    rows: dict[tuple[str, str], list[Question]] = {}  # image and text -> who asks it
    for question in questions:
        if question.question_id not in done:
            rows.setdefault((question.image, question.text), []).append(question)
    images = {image: place for place, image in enumerate(dict.fromkeys(i for i, _ in rows))}
    missing = [image for image in images if image and not Path(image).is_file()]
    if missing:
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise BadInput(f"{len(missing)} image files are missing: {', '.join(missing[:20])}{more}")
    if not rows:
        return
    waiting = sorted(rows.values(), key=lambda row: images[row[0].image])
    if isinstance(backbone, Served):
        for question, text, tokens, finish in backbone.answers([*chain(*waiting)], decoding):
            yield _answer(question, model, text, tokens, finish)
        return
    if exact:
        batch_questions = 1
        waiting = [[question] for row in waiting for question in row]
    batch_questions = batch_questions or batch_that_fits(backbone, decoding, batch_memory_gib)
    progress = Progress(f"{model}, {decoding.name}", len(images))
    try:
        while waiting:
            group = _group(waiting, 0 if exact else batch_questions)
            answered = 0  # rows
            try:
                for row, ids in _answer_group(backbone, group, decoding, prompt, batch_questions):
                    text = backbone.decode(ids).strip()
                    stopped = bool(decoding.stop_at) and decoding.stop_at in text
                    is_over = stopped or bool(backbone.ends(torch.tensor(ids)))
                    finish = "stop" if is_over else "length"
                    for question in row:
                        yield _answer(question, model, text, len(ids), finish)
                    answered += 1
                progress.done({row[0].image for row in group})
            except torch.OutOfMemoryError:
                if batch_questions == 1:
                    raise
            del waiting[:answered]
            if answered == len(group):
                continue
            # Outside of the handler, whose traceback holds on to what filled the memory.
            batch_questions //= 2
            log.warning("out of memory: %d questions at a time from here on", batch_questions)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    finally:
        progress.close()


def _answer(
    question: Question, model: str, text: str, tokens: int, finish: Literal["stop", "length"]
) -> Answer:
    return Answer(
        question_id=question.question_id,
        benchmark=question.benchmark,
        split=question.split,
        model=model,
        image_id=question.image_id,
        text=text,
        tokens=tokens,
        finish=finish,
    )


def batch_that_fits(backbone: Backbone, decoding: Decoding, budget_gib: float = 0.0) -> int:
    """Questions at a time, at least 1.

    Counted is `cost.question_memory`, as if every question had an image of its own. It is an
    estimate: if memory runs out all the same, `generate` halves it.

    Args:
        backbone: on its device.
        decoding: beams and length.
        budget_gib: what generation may use beside the weights; 0: 80 % of what is free.
    """
    device = backbone.device
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
    else:
        free = psutil.virtual_memory().available
    budget = budget_gib * 2**30 or _SHARE * free
    count = max(1, min(MOST, int(budget // bytes_of_a_question(backbone, decoding))))
    log.info("%d questions at a time (%.1f GiB for them)", count, budget / 2**30)
    return count


def bytes_of_a_question(backbone: Backbone, decoding: Decoding) -> int:
    """What a question with its own image takes at most while it is answered."""
    return cost.question_memory(
        backbone.sizes,
        number_bytes=backbone.dtype.itemsize,
        beams=decoding.beams,
        max_new_tokens=decoding.max_new_tokens,
    )


def _group(rows: Sequence[Row], batch: int) -> list[Row]:
    """The first rows: of images whose questions fit into one batch, or of one image with more.

    Questions without an image stand alone: their prompt is another one. A batch of 0 is one row.
    """
    group: list[Row] = []
    for image, some in groupby(rows, key=lambda row: row[0].image):
        own = list(some)
        if not batch:
            return own[:1]
        if group and (len(group) + len(own) > batch or "" in (image, group[0][0].image)):
            break
        group += own
    return group


def _answer_group(
    backbone: Backbone,
    group: Sequence[Row],
    decoding: Decoding,
    prompt: Literal["train", "evaluate"],
    batch: int,
) -> Iterator[tuple[Row, list[int]]]:
    """Every row of a group of images with its generated ids."""
    asked = [(row[0].image, row[0].text) for row in group]
    images = list(dict.fromkeys(image for image, _ in asked))
    pixels: Any = None
    if images == [""]:
        ids = [backbone.text_ids(text, prompt=prompt) for _, text in asked]
    else:
        ids = [backbone.prefix(text, image, prompt=prompt) for image, text in asked]
        pixels = backbone.read_pixels(images)
    image_of = [images.index(image) for image, _ in asked]
    read = backbone.reader(ids, [text for _, text in asked], pixels, image_of)
    for at in range(0, len(group), batch):
        some = range(at, min(at + batch, len(group)))
        logits, state = read(some)
        if decoding.beams > 1:
            generated = decode_beams(backbone, logits, state, decoding)
        else:
            names = [f"{Path(asked[row][0]).name}/{asked[row][1]}" for row in some]
            generated = decode_single(backbone, logits, state, decoding, names)
        yield from zip((group[row] for row in some), generated, strict=True)


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
        is_due = now - self._logged >= self._every or len(self._done) >= self._total
        if self._bar.disable and is_due and new:
            self._logged = now
            log.info("%s", self.text(now))

    def text(self, now: float) -> str:
        """A sentence: how many of how many, how fast, how long still."""
        count = len(self._done)
        rate = count / max(now - self._start, 1e-9)
        left = (self._total - count) / rate if rate else 0.0
        if left < 90:
            time_left = f"{left:.0f} s"
        else:
            time_left = f"{left / 60:.0f} min" if left < 5400 else f"{left / 3600:.1f} h"
        end = f"about {time_left} left" if count < self._total else "done"
        return f"{self._model}: {count} of {self._total} images, {rate:.2f} images/s, {end}"

    def close(self) -> None:
        """Leave the terminal as it is."""
        self._bar.close()
