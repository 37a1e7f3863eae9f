"""Base against tuned, measure by measure, and what lies behind: lengths and invented objects."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hadpo.figures._style import (
    BLUE,
    FAINT,
    FEW,
    GREY,
    MODEL_COLOURS,
    Figure,
    draw_shares,
    finish,
    name_rows,
    new_drawing,
    panels,
    percent,
    text_beside,
)
from hadpo.records import BadInput, Evidence, Instruction, Pair, Verdict
from hadpo.tables import (
    ReportedRow,
    RunResults,
    Table,
    measure_of,
    model_title,
    split_title,
)
from hadpo.text import forms, words

# Base to tuned, measure by measure, beside what was published.

_SHR, _WORDS = "hallucinated_sentence_ratio", "words_per_answer"
_DUMBBELLS = ("accuracy", "yes_ratio", _SHR, "chair_i", "chair_s", "object_recall", "relevancy")


@dataclass(frozen=True)
class _Line:
    """A line of dumbbells: base and tuned in percent, ours as dots, published as diamonds."""

    label: str
    ours: tuple[float | None, float | None]
    published: tuple[float | None, float | None]
    text: str  # at the right
    is_bold: bool = False


def _draw_lines(axes: Axes, lines: Sequence[_Line], *, above: float) -> None:
    for at, line in enumerate(lines):
        is_ours = line.ours != (None, None)
        ends = [x for x in (line.ours if is_ours else line.published) if x is not None]
        axes.plot(ends, [at] * len(ends), color="#c4c4c4", linewidth=2.5, zorder=1)
        for x, y, colour in zip(line.ours, line.published, (GREY, BLUE), strict=True):
            if x is not None:
                axes.plot(x, at, "o", color=colour, markersize=8, zorder=3)
            if y is not None:
                axes.plot(y, at - 0.3 * is_ours, "D", mfc="none", mec=colour, ms=6, zorder=2)
        text_beside(axes, at, line.text, fontweight="bold" if line.is_bold else "normal")
    name_rows(axes, [line.label for line in lines], above=above)
    axes.set_xlim(0, 100)


def dumbbell(
    table: Table,
    *,
    measures: Sequence[str] = _DUMBBELLS,
    title: str = "",
) -> Figure:
    """Base to tuned for each benchmark and split, with the published values as hollow marks.

    No published value stands beside a mini run's: it is of another model on other images.

    Args:
        table: from `tables.comparison`; the rows of the tuned model are drawn.
        measures: metrics to draw, in this order within their benchmark.
        title: the message; empty: how many differences are clear of zero.

    Raises:
        BadInput: no such rows.
    """
    records = [r for r in table.rows if r["model"] == "merged"]
    rows = [r for r in records if r["measure"] in measures and r["tuned"] is not None]
    if not rows:
        raise BadInput(f"no rows to draw: the table has none of {', '.join(measures)}")
    rows.sort(key=lambda r: (r["group"], r["benchmark"], measures.index(r["measure"])))
    ways = Counter(
        measure_of(r["benchmark"], r["measure"]).way(r["difference"]) for r in rows if r["clear"]
    )
    message = title or (
        f"{ways.total()} of {len(rows)} differences between base and tuned are clear of zero "
        f"({ways['better']} better, {ways['worse']} worse, {ways['']} neither)."
    )
    several = len({r["group"] for r in rows}) > 1
    lines = [_line(row, several) for row in rows]
    with panels(8.0, 0.36 * len(rows) + 1.5) as (drawing, axes):
        _draw_lines(axes, lines, above=0.9)
        has_scores = any(not _is_fraction(row) for row in rows)
        axes.set_xlabel("percent; scores of 0 to 10: tenths" if has_scores else "percent")
        text_beside(axes, -0.75, "difference [95 %], n", color=FAINT, va="baseline")
    note = "Grey dot: base; blue dot: tuned."
    if any(r["reported_base"] is not None and not r["is_mini"] for r in rows):
        note += " Hollow diamonds: published base and tuned."
    if any(r["interval"] == "unpaired" for r in rows):
        note += " u: unpaired interval."
    names = ("recipe", "group", "benchmark", "split", "measure", "reported_base", "reported_tuned")
    names += ("base", "tuned", "difference", "low", "high", "n")
    data = [{name: row[name] for name in names} for row in rows]
    ends = ([_in_words(row, name) for name in ("base", "tuned")] for row in rows)
    texts = (f"{x.label}: {' to '.join(e)}" for x, e in zip(lines, ends, strict=True))
    alt = f"{'; '.join(texts)}."
    is_mini = table.is_mini
    return finish(drawing, "dumbbell", message, note=note, alt=alt, data=data, is_mini=is_mini)


def _line(row: Mapping[str, Any], several: bool) -> _Line:
    wide, unit = (100, 100) if _is_fraction(row) else (10, 1)  # on the axis; what the text says
    text = ""
    if row["difference"] is not None:
        text = f"{unit * row['difference']:+.1f}"
        if row["low"] is not None:
            text += f" [{unit * row['low']:+.1f}, {unit * row['high']:+.1f}]"
            text += " u" * (row["interval"] == "unpaired")
        text += f", {row['n']}"
    names = ("base", "tuned", "reported_base", "reported_tuned")
    base, tuned, *published = (None if row[n] is None else wide * row[n] for n in names)
    measure = measure_of(row["benchmark"], row["measure"]).label
    split = split_title(row["benchmark"], row["split"])
    label = f"{split}: {measure}" if split else measure
    label = f"{row['group']}\n{label}" if several else label
    beside = (None, None) if row["is_mini"] else (published[0], published[1])
    return _Line(label, (base, tuned), beside, text, is_bold=row["clear"])


def _is_fraction(row: Mapping[str, Any]) -> bool:
    return measure_of(row["benchmark"], row["measure"]).is_fraction


def _in_words(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    return percent(value) if _is_fraction(row) or value is None else f"{value:.1f}"


def published_dumbbell(rows: Sequence[ReportedRow]) -> Figure:
    """Published base and tuned values alone: POPE accuracy and SHR, each backbone and split.

    Raises:
        BadInput: nothing published of these.
    """
    measures = {"accuracy": ("POPE accuracy rises", 1), _SHR: ("SHR falls", -1)}
    found: dict[tuple[str, str, str, str], dict[str, float | None]] = {}
    for row in rows:
        for name in measures:
            if name in row.values and row.unit != "points":
                key = (row.backbone, row.benchmark, row.split, name)
                values = found.setdefault(key, {"base": None, "tuned": None})
                values["base" if row.is_base else "tuned"] = row.values[name]
    if not found:
        raise BadInput(f"no published {' or '.join(measures)} to draw")
    parts = []
    for name, (text, sign) in measures.items():
        ends = [(v["base"], v["tuned"]) for key, v in found.items() if key[3] == name]
        known = [tuned - base for base, tuned in ends if base is not None and tuned is not None]
        if known:
            parts.append(f"{text} in {sum(sign * d > 0 for d in known)} of {len(known)} rows")
    lines = []
    for (backbone, benchmark, split, _), values in found.items():
        base, tuned = (None if v is None else 100 * v for v in values.values())
        label = f"{backbone}, {benchmark.upper()}{f' {split}' if split != 'all' else ''}"
        text = " → ".join("-" if v is None else f"{v:.1f}" for v in (base, tuned))
        lines.append(_Line(label, (None, None), (base, tuned), text))
    with panels(8.0, 0.33 * len(found) + 1.3) as (drawing, axes):
        _draw_lines(axes, lines, above=0.6)
        axes.set_xlabel("percent: accuracy of POPE, hallucinated sentences of SHR")
    drawn = {benchmark for _, benchmark, *_ in found}
    counts = sorted({f"{r.benchmark.upper()} {r.n}" for r in rows if r.n and r.benchmark in drawn})
    note = "Grey: base; blue: tuned, as published; sources stand in the tables."
    note += f" n: {', '.join(counts)}." if counts else ""
    keys = ("backbone", "benchmark", "split", "measure")
    data = [dict(zip(keys, key, strict=True)) | values for key, values in found.items()]
    alt = "; ".join(
        f"{line.label} {percent(v['base'])} to {percent(v['tuned'])}"
        for line, v in zip(lines, found.values(), strict=True)
    )
    message = f"Published: {' and '.join(parts) or 'no pair of base and tuned'}."
    return finish(drawing, "published", message, note=note, alt=f"{alt}.", data=data)


# Lengths of chosen and rejected texts: the first thing that preference training can exploit.


def length_figure(pairs: Sequence[Pair | Instruction]) -> Figure:
    """Words of the chosen against words of the rejected text, of the description pairs.

    Of all pairs if there are no descriptions. On the diagonal, length carries no signal. Of
    instructions: how long the answers of each kind are.
    """
    instructions = [record for record in pairs if isinstance(record, Instruction)]
    if instructions:
        return _answer_lengths(instructions)
    every = [record for record in pairs if isinstance(record, Pair)]
    shown = [p for p in every if p.kind == "description"] or every
    if not shown:  # a run that only evaluates prepares none
        message = "No pairs, so there are no lengths to compare."
        return finish(new_drawing(6.2, 1.0), "pair_lengths", message, note="n = 0.", alt="")
    chosen = np.array([len(p.chosen.split()) for p in shown])
    rejected = np.array([len(p.rejected.split()) for p in shown])
    change = float(chosen.mean() / max(rejected.mean(), 1e-9) - 1)
    message = f"Chosen texts are {abs(change):.1%} {'longer' if change >= 0 else 'shorter'}."
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, (2, len(shown)))  # parts equal points
    end = float(max(chosen.max(), rejected.max()) + 2)
    with panels(4.6, 4.2) as (drawing, axes):
        axes.plot([0, end], [0, end], color=GREY, linewidth=1)
        axes.text(end * 0.88, end * 0.94, "equal length", ha="right", color=GREY)
        axes.plot(rejected + jitter[0], chosen + jitter[1], ".", color=BLUE, markersize=3)
        axes.set(xlim=(0, end), ylim=(0, end), xlabel="words rejected", ylabel="words chosen")
    note = f"n = {len(shown)} {'description ' * (shown[0].kind == 'description')}pairs."
    data = [
        {"pair_id": p.pair_id, "chosen_words": int(c), "rejected_words": int(r)}
        for p, c, r in zip(shown, chosen, rejected, strict=True)
    ]
    alt = "Scatter of words in the chosen against words in the rejected texts."
    return finish(drawing, "pair_lengths", message, note=note, alt=alt, data=data)


def _answer_lengths(records: Sequence[Instruction]) -> Figure:
    words: dict[str, list[int]] = {}
    for record in records:
        words.setdefault(record.kind, []).append(len(record.answer.split()))
    means = ", ".join(f"{kind} {np.mean(counts):.1f}" for kind, counts in words.items())
    bins = range(max(max(counts) for counts in words.values()) + 2)
    with panels(5.2, 3.4) as (drawing, axes):
        for kind, counts in words.items():
            axes.hist(counts, bins, histtype="step", linewidth=1.5, label=kind)
        axes.set(xlabel="words of the answer", ylabel="instructions")
        axes.legend(fontsize=8)
    data = [{"kind": kind, "words": n} for kind, counts in words.items() for n in counts]
    message, note = f"Words of an answer, mean: {means}.", f"n = {len(records)}."
    alt = "Histogram by kind."
    return finish(drawing, "answer_lengths", message, note=note, alt=alt, data=data)


# What is invented: against the length of the answer, and object by object.

_MARKS = {"base": "o", "merged": "D"}
_BINS = 5  # groups of equally many answers


def length_against_hallucination(result: RunResults) -> Figure:
    """Hallucinated share of each description against its words, base and tuned, with bin means.

    Lines apart at the same length: the gain is not one of saying less.

    Raises:
        BadInput: the run has no judged descriptions by image.
    """
    points: dict[str, list[tuple[str, float, float]]] = {}
    for (benchmark, split, name, model), sums in result.items.items():
        if name == _SHR and model in _MARKS and (benchmark, split, name, model) in result.metrics:
            lengths = result.items.get((benchmark, split, _WORDS, model), {})
            points[model] = [
                (image, lengths[image][0] / lengths[image][1], over / under)
                for image, (over, under) in sums.items()
                if under and image in lengths
            ]
    points = {model: points[model] for model in _MARKS if points.get(model)}
    if not points:
        raise BadInput("no judged descriptions by image: nothing to set against their length")
    texts = []
    rng = np.random.default_rng(0)  # a little noise, so that equal points can be told apart
    with panels() as (drawing, axes):
        for model, found in points.items():
            x, y = np.array([point[1:] for point in found]).T
            is_varied = len(x) > 2 and x.std() > 0 and y.std() > 0
            slope = f"{np.corrcoef(x, y)[0, 1]:+.2f}" if is_varied else "-"
            texts.append(f"{model_title(model)} {slope}")
            y, colour, mark = 100 * y, MODEL_COLOURS[model], _MARKS[model]
            noise = rng.uniform(-0.4, 0.4, (2, len(x)))
            axes.plot(x + noise[0], y + noise[1], mark, color=colour, markersize=2.5, alpha=0.35)
            groups = [g for g in np.array_split(np.argsort(x, kind="stable"), _BINS) if len(g)]
            means = [(x[g].mean(), y[g].mean()) for g in groups]
            axes.plot(*zip(*means, strict=True), marker=mark, color=colour, linewidth=1.8)
            label = f" {model_title(model)}, n {len(x)}"
            axes.annotate(label, means[-1], color=colour, fontsize=7.5)
        axes.set(xlabel="words per answer", ylabel="hallucinated sentences (%)")
        axes.set_ylim(bottom=-2)
    message = f"Length and hallucination of an answer correlate: {', '.join(texts)}."
    note = f"{result.name}. Small: each image; large: means of {_BINS} groups by length."
    data = [
        {"model": model, "image_id": image, "words": length, _SHR: share}
        for model, found in points.items()
        for image, length, share in found
    ]
    alt, is_mini = (
        "Scatter of hallucinated sentences against words, with means by length.",
        result.is_mini,
    )
    return finish(drawing, "shr_length", message, note=note, alt=alt, data=data, is_mini=is_mini)


def invented_objects(
    verdicts: Sequence[Verdict],
    evidence: Mapping[str, Evidence],
    objects: Sequence[str],
    *,
    model: str = "base",
    most: int = 12,
) -> Figure:
    """Which objects a model invents, and beside which real ones: a share for every pair.

    A cell says in what share of the images that show the real object, and not the other, the other
    was named in a sentence ruled a hallucination.

    Args:
        verdicts: rulings on sentences; those of `model` are read.
        evidence: by the case's id; images of which no object is known are left out.
        objects: names to look for.
        model: whose inventions.
        most: objects to show, the most invented first.

    Raises:
        BadInput: no image with annotated objects was judged.
    """
    spellings = {name: forms(name) for name in objects}

    def named(text: str) -> set[str]:
        said = set(words(text))
        return {name for name, spelled in spellings.items() if spelled & said}

    real: dict[str, set[str]] = {}  # case -> the objects annotated, or named by a described box
    for case, known in evidence.items():
        real[case] = named(" ".join(region.phrase for region in known.regions))
        real[case] |= spellings.keys() & set(known.objects)
    own = [verdict for verdict in verdicts if verdict.model == model]
    found: dict[str, set[str]] = {v.case_id: set() for v in own if real.get(v.case_id)}
    if not found:
        raise BadInput(f"no judged image of {model!r} has annotated objects: nothing to count")
    for verdict in own:
        if verdict.label == "hallucination" and verdict.case_id in found:
            found[verdict.case_id] |= named(verdict.claim) - real[verdict.case_id]
    absent = Counter(name for case in found for name in objects if name not in real[case])
    times = Counter(name for named_ in found.values() for name in named_)
    present = Counter(name for case in found for name in real[case])
    shown, beside = (sorted(c, key=lambda n: (-c[n], n))[:most] for c in (times, present))
    data = []
    for name in shown:
        for other in beside:
            cases = [c for c in found if other in real[c] and name not in real[c]]
            hits = sum(name in found[c] for c in cases)
            row = {"model": model, "invented": name, "beside": other, "images": len(cases)}
            data.append(row | {"times": hits, "share": hits / len(cases) if cases else None})
    message = f"The {model_title(model)} invents no object."
    if shown:
        message = f"The {model_title(model)} invents {shown[0]} most."
    if many := [row for row in data if row["images"] >= FEW]:
        top = max(many, key=lambda row: (row["share"], row["images"]))
        message = (
            f"{message[:-1]}; beside {top['beside']} it invents "
            f"{top['invented']} in {percent(top['share'])} of {top['images']} images."
        )
    size = (8.0, 0.34 * max(len(shown), 2) + 1.9)
    with panels(*size, 1, 2, width_ratios=(3, 1), sharey=True) as (drawing, (axes, bars)):
        shape = (len(shown) or 1, len(beside) or 1)
        grid, of = np.zeros(shape), np.zeros(shape, int)
        if shown:
            grid[:] = np.reshape([row["share"] or 0.0 for row in data], shape)
            of[:] = np.reshape([row["images"] for row in data], shape)
        draw_shares(axes, grid, of, size=6.5)
        axes.set_xticks(range(len(beside)), beside, rotation=60, ha="right")
        axes.set_yticks(range(len(shown)), shown)
        axes.set(xlabel="real object in the image", ylabel="invented object")
        axes.grid(visible=False)
        rates = [100 * times[name] / absent[name] for name in shown]
        drawn = bars.barh(range(len(shown)), rates, color=MODEL_COLOURS.get(model, GREY))
        labels = [f"{rate:.0f} %, {times[n]}" for n, rate in zip(shown, rates, strict=True)]
        bars.bar_label(drawn, labels, padding=3, fontsize=6.5)
        bars.set(xlabel="% of images without it")
        bars.margins(x=0.45)
        bars.tick_params(axis="y", labelleft=False)
    note = (
        f"Cells: percent, and below it of how many images; grey: fewer than {FEW}, too few to "
        f"tell. n {len(found)} images; bars: percent and times."
    )
    counts = "; ".join(f"{name} {times[name]} times" for name in shown)
    alt = f"Heat map of invented against real objects. {counts}."
    return finish(drawing, f"invented_objects_{model}", message, note=note, alt=alt, data=data)
