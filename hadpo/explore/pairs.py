"""Browse preference pairs: what differs is marked; filter by kind, source and length."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hadpo.explore.browser import Browser, Entry
from hadpo.figures import pair_card
from hadpo.records import Pair, read_jsonl


def browse_pairs(pairs: Path | Sequence[Pair], *, is_mini: bool) -> Browser:
    """A browser of pairs, or of a file of them (`pairs.jsonl` of a stage prepare).

    Raises:
        BadInput: a line that is no pair.
    """
    every = list(read_jsonl(pairs, Pair)) if isinstance(pairs, Path) else pairs
    entries = [_entry(pair, is_mini=is_mini) for pair in every]
    return Browser(entries, title="pairs", is_mini=is_mini)


def _entry(pair: Pair, *, is_mini: bool) -> Entry:
    chosen, rejected = pair.chosen.split(), pair.rejected.split()
    change = len(chosen) - len(rejected)
    length = "longer" if change > 0 else "shorter" if change < 0 else "as long"
    return Entry(
        partial(pair_card, pair, is_mini=is_mini),
        {"kind": pair.kind, "source": pair.source, "chosen is": length},
        {
            "words chosen": len(chosen),
            "words more in chosen": change,
            "words fewer in chosen": -change,
            "new words in rejected": len(set(rejected) - set(chosen)),
        },
        f"{pair.instruction} {pair.chosen} {pair.rejected}",
    )
