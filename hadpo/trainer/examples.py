"""From records to token ids.

A pair has two answers, an instruction one. A record's ids take several times the memory of its text
(image tokens above all), so they are made when they are read and not kept: of a hundred thousand
pairs, a training holds the texts.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from hadpo import batch
from hadpo.batch import Example
from hadpo.batch.examples import Kind
from hadpo.config import TrainConfig
from hadpo.records import BadInput, Instruction, Pair
from hadpo.vlm.backbone import Backbone

Record = Pair | Instruction
log = logging.getLogger(__name__)

# Asked of a caption that has no request of its own; one is drawn for each record.
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


def kind_of(record: Record) -> Kind:
    """The kind of a record's example."""
    return record.kind if isinstance(record, Pair) else "instruction"


def tokenize(backbone: Backbone, record: Record, settings: TrainConfig) -> Example | str:
    """The example of a record; for one that leaves nothing to learn, the reason.

    Of a pair, both answers must differ, also once they are cut.

    An answer that is too long is cut and keeps its end marker. If nothing of an instruction's
    answer would be left, the original went on with an end marker alone, or with a loss of NaN.

    Raises:
        BadInput: an instruction's weight that is not above 0; a pair whose prompt leaves no room.
    """
    if isinstance(record, Pair):
        example = batch.tokenize(backbone, record, max_length=settings.max_length)
        if example.chosen != example.rejected:
            return example
        why = "chosen and rejected are the same"
        return f"{why} once they are cut to max_length" if example.cut else why
    if not record.weight > 0:
        raise BadInput(
            f"instruction {record.instruction_id}: weight {record.weight}, expected above 0"
        )
    text = record.instruction or request(
        settings.caption_requests, record.instruction_id, settings.train_seed
    )
    prefix = backbone.prefix(text, record.image, prompt="train")
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


class Examples:
    """Examples of records, each tokenised anew whenever it is read.

    Every record is tokenised once at the start, so that one that does not fit is found there; those
    that leave nothing to learn are left out.

    Raises:
        BadInput: there are records, but no examples; or as `tokenize`.
    """

    def __init__(
        self, backbone: Backbone, records: Sequence[Record], settings: TrainConfig
    ) -> None:
        self._backbone, self._settings = backbone, settings
        self.records: list[Record] = []
        self.left_out = Counter[str]()  # records without an example, by reason
        self.cut = 0  # answers that are cut to fit
        self.longest = 0  # positions of the longest row of one example
        names: list[str] = []
        for record in records:
            example = tokenize(backbone, record, settings)
            if isinstance(example, str):
                self.left_out[example] += 1
                names.append(record.pair_id if isinstance(record, Pair) else record.instruction_id)
            else:
                self.records.append(record)
                self.cut += example.cut
                self.longest = max(self.longest, batch.row_length([example]))
        if names:
            some = f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
            what = f"{len(names)} of {len(records)} records ({some}): {dict(self.left_out)}"
            if not self.records:
                raise BadInput(
                    f"nothing to learn from {what}; look at the records, and at max_length "
                    f"({settings.max_length})"
                )
            log.warning("left out: %s", what)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> Example:
        example = tokenize(self._backbone, self.records[place], self._settings)
        assert isinstance(example, Example)  # records without one are left out
        return example

    def __iter__(self) -> Iterator[Example]:
        return (self[place] for place in range(len(self)))
