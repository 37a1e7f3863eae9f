"""Records to token ids: a pair has two answers, an instruction one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hadpo import batch
from hadpo.backbones._base import Backbone
from hadpo.batch import Example
from hadpo.config import TrainConfig
from hadpo.records import BadInput, Instruction, Pair
from hadpo.trainer.requests import request

Record = Pair | Instruction


def tokenized(
    backbone: Backbone, records: Sequence[Record], settings: TrainConfig
) -> tuple[list[Example], Counter[str]]:
    """Examples of all records that leave something to learn; and how many do not, by reason.

    Raises:
        BadInput: records are left, but no example; or a pair whose prompt leaves no room.
    """
    examples, left_out = [], Counter[str]()
    for record in records:
        if isinstance(record, Pair):
            examples.append(batch.tokenize(backbone, record, max_length=settings.max_length))
            continue
        example = of_instruction(backbone, record, settings)
        if isinstance(example, str):
            left_out[example] += 1
        else:
            examples.append(example)
    if records and not examples:
        raise BadInput(f"nothing to learn from: {dict(left_out)}; raise max_length")
    return examples, left_out


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
