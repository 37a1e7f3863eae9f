"""Rows of a comparison: one model against another on one measure, of one run or of several."""

from collections.abc import Sequence
from typing import Any

from hadpo.tables.intervals import mean_interval, paired_difference, unpaired_difference
from hadpo.tables.measures import MEASURES, MODELS, WORDS
from hadpo.tables.reported import ReportedRow, matching
from hadpo.tables.results import Key, RunResults

Row = dict[str, Any]
_FACTS = ("recipe", "group", "run", "runs", "benchmark", "split", "measure", "model", "against")
_VALUES = (
    "reported_base",
    "reported_tuned",
    "base",
    "tuned",
    "difference",
    "low",
    "high",
    "interval",
)
_COUNTS = (
    "deviation",
    "n_base",
    "n",
    "n_unreadable_base",
    "n_unreadable",
    "words_base",
    "words_tuned",
)
_PRINTED = ("reported_base_printed", "reported_tuned_printed")
COLUMNS = (*_FACTS, *_VALUES, *_COUNTS, *_PRINTED, "is_mini")


def rows_against_base(
    result: RunResults, reported: Sequence[ReportedRow] = (), *, samples: int, seed: int
) -> list[Row]:
    """All rows of one run: every evaluated model against its base, measure by measure."""
    models = [m for m in models_of(result) if m != "base"] or ["merged"]
    rows = [_pair_rows(result, "base", m, reported, samples=samples, seed=seed) for m in models]
    return _by_place(result, rows)


def rows_against_controls(result: RunResults, *, samples: int, seed: int) -> list[Row]:
    """All rows of one run: the tuned model against every control, measure by measure."""
    controls = [m for m in models_of(result) if m not in ("base", "merged")]
    rows = [_pair_rows(result, m, "merged", samples=samples, seed=seed) for m in controls]
    return _by_place(result, rows)


def mean_rows(each: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several runs as one row each: means, deviation and t interval of the difference.

    The runs are of one group (see `groups`). A row stands if at least one run has it; `runs` counts
    those with a difference.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in (row for rows in each for row in rows):
        key = ("recipe", "benchmark", "split", "measure", "model", "against")
        groups.setdefault(tuple(row[k] for k in key), []).append(row)
    return [_mean_row(rows) for rows in groups.values()]


def _mean_row(rows: Sequence[Row]) -> Row:
    mean = dict(rows[0])
    for name in ("base", "tuned", "words_base", "words_tuned"):
        known = [row[name] for row in rows if row[name] is not None]
        mean[name] = mean_interval(known)[0] if known else None
    for name in ("n", "n_base"):
        mean[name] = min((row[name] for row in rows if row[name] is not None), default=None)
    for name in ("n_unreadable", "n_unreadable_base"):
        mean[name] = max((row[name] for row in rows if row[name] is not None), default=None)
    differences = [row["difference"] for row in rows if row["difference"] is not None]
    names = ("difference", "deviation", "low", "high")
    found = mean_interval(differences) if differences else (None,) * 4
    mean |= {
        "run": "mean",
        "runs": len(differences),
        "interval": "t" if len(differences) > 1 else None,
    }
    return mean | dict(zip(names, found, strict=True))


def _pair_rows(
    result: RunResults,
    first: str,
    second: str,
    reported: Sequence[ReportedRow] = (),
    *,
    samples: int,
    seed: int,
) -> list[Row]:
    """One row per measure: model `second` against model `first` of the same run."""
    published = matching(reported, result.backbone) if (first, second) == ("base", "merged") else ()
    rows = []
    for benchmark, split, name in _places(result):
        key = (benchmark, split, name)
        before, after = result.metrics.get((*key, first)), result.metrics.get((*key, second))
        if after is None and second != "merged":  # a control that this benchmark does not know
            continue
        row: Row = dict.fromkeys(COLUMNS)
        row |= {"recipe": result.recipe, "run": result.name, "runs": 1, "is_mini": result.is_mini}
        row |= {"benchmark": benchmark, "split": split, "measure": name}
        row |= {"model": second, "against": first}
        if before is not None:
            row |= {"base": before.value, "n_base": before.n}
            row["n_unreadable_base"] = result.unreadable((*key, first))
        if after is not None:
            row |= {"tuned": after.value, "n": after.n}
            row["n_unreadable"] = result.unreadable((*key, second))
        if row["base"] is not None and row["tuned"] is not None:
            row["difference"] = row["tuned"] - row["base"]
        row["words_base"] = _words(result, benchmark, split, first)
        row["words_tuned"] = _words(result, benchmark, split, second)
        for found in published:
            is_whole = found.split == "all" and _is_only(result, benchmark)
            if found.benchmark == benchmark and (found.split == split or is_whole):
                place = "reported_base" if found.is_base else "reported_tuned"
                row |= {place: found.values.get(name), f"{place}_printed": found.shown(name)}
        if row["difference"] is not None:
            row |= _interval(result, (*key, first), second, samples=samples, seed=seed)
        rows.append(row)
    return rows


def _interval(result: RunResults, key: Key, other: str, *, samples: int, seed: int) -> Row:
    """Ends of the difference's interval, and how it was made."""
    pair = result.paired(key, other)
    ends = paired_difference(*pair, samples=samples, seed=seed) if pair else None
    if ends is not None:
        return {"low": ends[0], "high": ends[1], "interval": "paired"}
    before, after = result.metrics[key], result.metrics[(*key[:3], other)]
    ends = unpaired_difference(before, after)
    return {"low": ends[0], "high": ends[1], "interval": "unpaired"} if ends else {}


def models_of(result: RunResults) -> list[str]:
    """Evaluated models, in the order of the tables."""
    found = {key[3] for key in result.metrics}
    return [m for m in MODELS if m in found] + sorted(found - MODELS.keys())


def _places(result: RunResults) -> list[tuple[str, str, str]]:
    """Benchmark, split and metric in the order of a table: splits as evaluated, then as listed."""
    found = list(dict.fromkeys(key[:3] for key in result.metrics))
    splits = list(dict.fromkeys((b, s) for b, s, _ in found))

    def rank(place: tuple[str, str, str]) -> tuple[int, int, int]:
        names = [m.name for m in MEASURES.get(place[0], ())]
        listed = names.index(place[2]) if place[2] in names else len(names)
        return splits.index(place[:2]), listed, found.index(place)

    return sorted(found, key=rank)


def _by_place(result: RunResults, rows: Sequence[Sequence[Row]]) -> list[Row]:
    order = _places(result)
    flat = [row for each in rows for row in each]
    return sorted(flat, key=lambda r: order.index((r["benchmark"], r["split"], r["measure"])))


def _words(result: RunResults, benchmark: str, split: str, model: str) -> float | None:
    value = result.value((benchmark, split, WORDS, model))
    if value is not None:
        return value
    sums = result.items.get((benchmark, split, WORDS, model))
    return sum(s[0] for s in sums.values()) / sum(s[1] for s in sums.values()) if sums else None


def _is_only(result: RunResults, benchmark: str) -> bool:
    return len({key[1] for key in result.metrics if key[0] == benchmark}) == 1
