"""Browse preference pairs, or instructions: filter by kind, source and length.

Of a pair, what differs between the texts is marked.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hadpo.explore.browser import Browser, Entry
from hadpo.figures import pair_card
from hadpo.records import Instruction, Pair, read_jsonl


def browse_pairs(pairs: Path | Sequence[Pair | Instruction]) -> Browser:
    """A browser of pairs or instructions, or of a file of pairs (`pairs.jsonl` of prepare).

    Raises:
        BadInput: a line that is no pair.
    """
    every = list(read_jsonl(pairs, Pair)) if isinstance(pairs, Path) else pairs
    entries = [
        _instruction(record) if isinstance(record, Instruction) else _entry(record)
        for record in every
    ]
    is_pairs = all(isinstance(record, Pair) for record in every)
    return Browser(entries, title="pairs" if is_pairs else "instructions")


def _entry(pair: Pair) -> Entry:
    chosen, rejected = pair.chosen.split(), pair.rejected.split()
    change = len(chosen) - len(rejected)
    length = "longer" if change > 0 else "shorter" if change < 0 else "as long"
    return Entry(
        partial(pair_card, pair),
        {"kind": pair.kind, "source": pair.source, "chosen is": length},
        {
            "words chosen": len(chosen),
            "words more in chosen": change,
            "words fewer in chosen": -change,
            "new words in rejected": len(set(rejected) - set(chosen)),
        },
        f"{pair.instruction} {pair.chosen} {pair.rejected}",
    )


def _instruction(record: Instruction) -> Entry:
    return Entry(
        partial(pair_card, record),
        {"kind": record.kind, "source": record.source, "task": record.task},
        {"words of the answer": len(record.answer.split()), "weight": record.weight},
        f"{record.instruction} {record.answer}",
    )
