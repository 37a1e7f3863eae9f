"""Records to token ids: a pair has two answers, an instruction one.

A record's ids take several times the memory of its text (image tokens above all), so they are made
when they are asked for and not kept: what a training holds of a hundred thousand pairs is texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from hadpo import batch
from hadpo.batch import Example
from hadpo.config import TrainConfig
from hadpo.records import BadInput, Instruction, Pair
from hadpo.trainer.requests import request
from hadpo.vlm.backbone import Backbone

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
