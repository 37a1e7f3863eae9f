"""How the rows of an update are laid into micro-batches."""

from collections.abc import Iterator, Sequence

from hadpo import batch
from hadpo.batch import Example


def by_length(rows: Sequence[list[Example]]) -> list[list[Example]]:
    """Like lengths side by side, so that rows of a micro-batch have little padding."""
    return sorted(rows, key=batch.row_length)


def micro_batches(rows: Sequence[list[Example]], pairs: int) -> Iterator[list[list[Example]]]:
    """Rows one after the other, as many as hold at most `pairs` pairs, and at least one."""
    part: list[list[Example]] = []
    for row in rows:
        if part and sum(map(len, part)) + len(row) > pairs:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
