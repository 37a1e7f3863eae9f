"""Records to token ids: a pair has two answers, an instruction one.

A record's ids take several times the memory of its text (image tokens above all), so they are made
when they are asked for and not kept: what a training holds of a hundred thousand pairs is texts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hadpo import batch
from hadpo.batch import Example, Packed
from hadpo.batch.packing import by_length, micro_batches
from hadpo.config import TrainConfig
from hadpo.records import BadInput, Instruction, Pair
from hadpo.trainer import sharding
from hadpo.trainer.objective import SIDES, Objective, weight
from hadpo.trainer.reference import References
from hadpo.vlm.backbone import Backbone

# What is asked where a record is a caption without a request; one is drawn for each record.

REQUESTS = {
    "detailed": (  # Vision-CAIR/MiniGPT-4, prompts/alignment.txt; HA-DPO asks the same four
        "Describe this image in detail.",
        "Take a look at this image and describe what you notice.",
        "Please provide a detailed description of the picture.",
        "Could you describe the contents of this image for me?",
    ),
    "humour": (  # Oxford HIC at 06340d3, minigpt4/prompts/alignment.txt
        "Describe this image in a funny way.",
        "Take a look at this image and tell a joke about it.",
        "Please provide a humourous description of the picture.",
        "Could you write a funny caption of this image for me?",
    ),
}


def request(name: str, record_id: str, seed: int) -> str:
    """One of the requests `name`, the same for the same record and seed."""
    return random.Random(f"{seed}/request/{record_id}").choice(REQUESTS[name])


Record = Pair | Instruction


class Examples:
    """Records as examples, each tokenised anew whenever it is asked for."""

    def __init__(self, backbone: Backbone, settings: TrainConfig) -> None:
        self.records: list[Record] = []
        self.cut = 0  # answers of all of them that are cut to fit
        self._backbone, self._settings = backbone, settings

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> Example:
        found = _example(self._backbone, self.records[place], self._settings)
        assert isinstance(found, Example)  # only records that have one are here
        return found

    def __iter__(self) -> Iterator[Example]:
        return (self[place] for place in range(len(self)))


def tokenized(
    backbone: Backbone, records: Sequence[Record], settings: TrainConfig
) -> tuple[Examples, Counter[str]]:
    """Examples of all records that leave something to learn; and how many do not, by reason.

    Every record is tokenised once here, so that one that does not fit is found before the start.

    Raises:
        BadInput: records are left, but no example; or a pair whose prompt leaves no room.
    """
    examples, left_out = Examples(backbone, settings), Counter[str]()
    for record in records:
        example = _example(backbone, record, settings)
        if isinstance(example, str):
            left_out[example] += 1
        else:
            examples.records.append(record)
            examples.cut += example.cut
    if records and not examples:
        raise BadInput(f"nothing to learn from: {dict(left_out)}; raise max_length")
    return examples, left_out


def kind_of(record: Record) -> Literal["description", "pope", "instruction"]:
    """The kind of a record's example."""
    return record.kind if isinstance(record, Pair) else "instruction"


def _example(backbone: Backbone, record: Record, settings: TrainConfig) -> Example | str:
    if isinstance(record, Pair):
        return batch.tokenize(backbone, record, max_length=settings.max_length)
    return of_instruction(backbone, record, settings)


def of_instruction(backbone: Backbone, record: Instruction, settings: TrainConfig) -> Example | str:
    """The example of an instruction, or why it has none.

    An answer that is too long is cut and keeps its end marker. Where nothing of it would be left,
    the original went on with an end marker alone, or with no target and a loss of NaN.

    Raises:
        BadInput: a weight that is not above 0.
    """
    if not record.weight > 0:
        raise BadInput(
            f"instruction {record.instruction_id}: weight {record.weight}, expected above 0"
        )
    text = record.instruction or request(
        settings.caption_requests, record.instruction_id, settings.train_seed
    )
    prefix = backbone.expand(backbone.prompt_ids(text, prompt="train"))
    room = settings.max_length - len(prefix)
    if settings.max_answer_tokens:
        room = min(room, settings.max_answer_tokens)
    if not record.answer.strip():
        return "empty answer"
    if room <= len(backbone.end_ids):
        return "the prompt leaves no room for an answer"
    answer, is_cut = batch.fit_answer(backbone, record.answer, room)
    return Example(
        pair_id=record.instruction_id,
        kind="instruction",
        image=record.image,
        instruction=text,
        prefix=tuple(prefix),
        chosen=answer,
        rejected=(),
        cut=int(is_cut),
        source=record.source,
        weight=record.weight,
    )


# Micro-batches: what one process reads for an update, and how much each pair of it counts.


@dataclass(frozen=True, kw_only=True)
class Micro:
    """The pairs, or captions, of one backward pass, on the CPU."""

    packed: Packed
    pixels: Float[Tensor, "images 3 side side"]
    reference: Float[Tensor, "answers pairs"] | None  # log-probabilities from the cache
    pair_ids: tuple[str, ...]
    objective: Objective
    is_auxiliary: bool  # captions of the term gamma, beside pairs
    counts: Float[Tensor, " pairs"]  # how much each counts beside the others
    weight: float  # of what counts 1; 0 where another process has no pair left to wait for


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes one process's micro-batches.

    Where weights are shared out, each pass needs all processes: all get as many micro-batches, some
    of weight 0.
    """

    backbone: Backbone
    settings: TrainConfig
    objective: Objective
    references: References | None
    rank: int
    world: int

    def of(
        self, examples: Sequence[Example], *, total: float, is_auxiliary: bool = False
    ) -> Iterator[Micro]:
        """This process's share of examples whose weights sum up to 1 / `total` of the update.

        Images are read when their micro-batch is asked for.
        """
        objective = "sft" if is_auxiliary else self.objective
        rows = by_length(batch.grouped(examples, self.settings.pairs_per_row))
        size = self.settings.micro_batch_pairs
        passes = [len(list(micro_batches(rows[k :: self.world], size))) for k in range(self.world)]
        wanted = max(passes) if sharding.is_on() else 1
        for part in micro_batches(rows[self.rank :: self.world], size):
            yield self._micro(part, objective, is_auxiliary, total)
        if (idle := wanted - passes[self.rank]) > 0:
            yield from [self._micro(rows[:1], objective, is_auxiliary, 0.0)] * idle

    def _micro(
        self, rows: Sequence[list[Example]], objective: Objective, is_auxiliary: bool, total: float
    ) -> Micro:
        packed = batch.pack_rows(rows, sides=SIDES[objective])
        examples = [example for row in rows for example in row]
        ids = tuple(example.pair_id for example in examples)
        is_kept = self.references is not None and objective == "dpo"
        counts = [weight(example, self.objective, self.settings) for example in examples]
        return Micro(
            packed=packed,
            pixels=batch.read_pixels(self.backbone, packed.images),
            reference=self.references.of(ids) if is_kept and self.references else None,
            pair_ids=ids,
            objective=objective,
            is_auxiliary=is_auxiliary,
            counts=torch.tensor(counts, dtype=torch.float64),
            weight=total,
        )
