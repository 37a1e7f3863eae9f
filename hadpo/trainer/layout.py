"""How the rows of an update are laid into micro-batches."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from hadpo import batch
from hadpo.batch import Example
from hadpo.config import TrainConfig
from hadpo.records import BadInput
from hadpo.vlm.backbone import Backbone

Item = TypeVar("Item")


def by_length(rows: Sequence[list[Example]]) -> list[list[Example]]:
    """Like lengths side by side, so that rows of a micro-batch have little padding."""
    return sorted(rows, key=batch.row_length)


def micro_batches(rows: Sequence[list[Item]], pairs: int) -> Iterator[list[list[Item]]]:
    """Rows one after the other, as many as hold at most `pairs` pairs, and at least one."""
    part: list[list[Item]] = []
    for row in rows:
        if part and sum(map(len, part)) + len(row) > pairs:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def check_rows(backbone: Backbone, settings: TrainConfig) -> None:
    """Refuse pairs in one row where they would have nothing to share.

    Raises:
        BadInput: names the setting.
    """
    if settings.pairs_per_row > 1 and backbone.image_tokens_depend_on_instruction:
        raise BadInput(
            f"pairs_per_row: found {settings.pairs_per_row}, but the image tokens of "
            f"{backbone.name} depend on the instruction, so pairs of one image have nothing to "
            "share; set pairs_per_row to 1"
        )
