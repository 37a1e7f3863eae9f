"""The tuned models of two runs on the same images: which of them is better, and is it chance?"""

import itertools
from collections.abc import Sequence

from hadpo.tables import notes
from hadpo.tables._table import Table, frame_of, show, show_frame, show_interval
from hadpo.tables.comparison import covers_zero
from hadpo.tables.intervals import paired_difference
from hadpo.tables.measures import MEASURES, model_title
from hadpo.tables.results import RunResults
from hadpo.tables.rows import Row

TUNED = "merged"
_FACTS = ("first", "second", "benchmark", "split", "measure")
_VALUES = ("value_first", "value_second", "difference", "low", "high", "n_images", "is_mini")


def between_runs(
    results: Sequence[RunResults], *, samples: int = 1000, seed: int = 42
) -> Table | None:
    """Every two runs' tuned models, paired by image, on the measures that are better high or low.

    The test for SHR, GAVIE and CHAIR that McNemar's is for POPE. None where no two runs were
    measured on the same images.

    Args:
        results: the runs.
        samples: resampled image sets behind each interval.
        seed: of the resampling.
    """
    rows = [
        row
        for first, second in itertools.combinations(results, 2)
        for row in _rows(first, second, samples=samples, seed=seed)
    ]
    if not rows:
        return None
    heads = ["First run", "Second run", "Measure", "First", "Second", "Difference"]
    cells = []
    for row in rows:
        measure = next(m for m in MEASURES[row["benchmark"]] if m.name == row["measure"])
        ends = show_interval(row["low"], row["high"], is_fraction=measure.is_fraction)
        values = (row["value_first"], row["value_second"])
        first, second = (show(value, is_fraction=measure.is_fraction) for value in values)
        change = show(row["difference"], is_fraction=measure.is_fraction, signed=True)
        texts = (row["first"], row["second"], measure.title, first, second, change)
        cells.append(
            dict(zip(heads, texts, strict=True))
            | {"95 % interval": ends, "Images": str(row["n_images"])}
        )
    return Table(
        name="between_runs",
        caption=f"The {model_title(TUNED)} models of two runs on the same images",
        frame=frame_of(rows, (*_FACTS, *_VALUES)),
        shown=show_frame(cells, [*heads, "95 % interval", "Images"]),
        bold=frozenset(
            (at, "Difference")
            for at, row in enumerate(rows)
            if not covers_zero(row["low"], row["high"])
        ),
        notes=(
            "Second minus first. No correction for the number of comparisons.",
            *notes.of_intervals(1, samples),
        ),
        is_mini=any(result.is_mini for result in results),
    )


def _rows(first: RunResults, second: RunResults, *, samples: int, seed: int) -> list[Row]:
    found = []
    for key in first.items:
        benchmark, split, name, model = key
        judged = {m.name for m in MEASURES.get(benchmark, ()) if m.better and benchmark != "pope"}
        if model != TUNED or name not in judged:
            continue
        if first.asked.get((benchmark, split)) != second.asked.get((benchmark, split)):
            continue
        pair = first.paired(key, TUNED, of=second)
        ends = paired_difference(*pair, samples=samples, seed=seed) if pair else None
        if pair is None or ends is None:
            continue
        values = [float(sums[:, 0].sum() / sums[:, 1].sum()) for sums in pair]
        texts = (first.name, second.name, benchmark, split, name)
        row: Row = dict(zip(_FACTS, texts, strict=True))
        row |= {"value_first": values[0], "value_second": values[1]}
        row |= {"difference": values[1] - values[0], "low": ends[0], "high": ends[1]}
        row |= {"n_images": len(pair[0]), "is_mini": first.is_mini or second.is_mini}
        found.append(row)
    return found
