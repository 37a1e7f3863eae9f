"""Base against tuned, measure by measure, and what lies behind: lengths and invented objects."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hadpo.figures._style import (
    BLUE,
    GREY,
    MODEL_COLOURS,
    Figure,
    finish,
    house_style,
    name_rows,
    new_drawing,
    percent,
)
from hadpo.records import BadInput, Evidence, Instruction, Pair, Verdict
from hadpo.tables import (
    Measure,
    ReportedRow,
    RunResults,
    Table,
    measure_of,
    model_title,
    split_title,
)
from hadpo.text import forms, words

# Base to tuned, measure by measure, beside what was published.

_DUMBBELL_SHR = "hallucinated_sentence_ratio"


def dumbbell(
    table: Table,
    *,
    measures: Sequence[str] = (
        "accuracy",
        "yes_ratio",
        "hallucinated_sentence_ratio",
        "chair_i",
        "chair_s",
        "object_recall",
        "relevancy",
    ),
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
    clear = [r for r in rows if r["clear"]]
    message = title or (
        f"{len(clear)} of {len(rows)} differences between base and tuned are clear of zero."
    )
    several = len({r["group"] for r in rows}) > 1
    with house_style():
        drawing = new_drawing(8.0, 0.36 * len(rows) + 1.5)
        axes = drawing.add_subplot()
        for at, row in enumerate(rows):
            _dumbbell_row(axes, at, row)
        labels = [_row_label(r, several) for r in rows]
        name_rows(axes, labels, above=0.9)
        axes.set_xlim(0, 100)
        has_scores = any(not _measure(row).is_fraction for row in rows)
        axes.set_xlabel("percent; scores of 0 to 10: tenths" if has_scores else "percent")
        head = {"fontsize": 7.5, "color": "#555555", "transform": axes.get_yaxis_transform()}
        axes.text(1.02, -0.75, "difference [95 %], n", **head)
    note = "Grey dot: base; blue dot: tuned."
    if any(r["reported_base"] is not None and not r["is_mini"] for r in rows):
        note += " Hollow diamonds: published base and tuned."
    if any(r["interval"] == "unpaired" for r in rows):
        note += " u: unpaired interval."
    names = ("recipe", "group", "benchmark", "split", "measure", "reported_base", "reported_tuned")
    names += ("base", "tuned", "difference", "low", "high", "n")
    data = [{name: row[name] for name in names} for row in rows]
    words = "; ".join(
        f"{_row_label(r, several)}: {_in_words(r, 'base')} to {_in_words(r, 'tuned')}" for r in rows
    )
    figure = finish(drawing, "dumbbell", message, note=note, alt=f"{words}.", data=data)
    return figure.as_mini() if table.is_mini else figure


def published_dumbbell(rows: Sequence[ReportedRow], *, title: str = "") -> Figure:
    """Published base and tuned values alone: POPE accuracy and SHR, each backbone and split.

    Raises:
        BadInput: nothing published of these.
    """
    names = ("accuracy", _DUMBBELL_SHR)
    found: dict[tuple[str, str, str, str], dict[str, float | None]] = {}
    for row in rows:
        for name in names:
            if name in row.values and row.unit != "points":
                key = (row.backbone, row.benchmark, row.split, name)
                values = found.setdefault(key, {"base": None, "tuned": None})
                values["base" if row.is_base else "tuned"] = row.values[name]
    if not found:
        raise BadInput(f"no published {' or '.join(names)} to draw")
    message = title or _published_message(found)
    with house_style():
        drawing = new_drawing(8.0, 0.33 * len(found) + 1.3)
        axes = drawing.add_subplot()
        for at, values in enumerate(found.values()):
            ends = [(values[n], c) for n, c in (("base", GREY), ("tuned", BLUE))]
            known = [100 * value for value, _ in ends if value is not None]
            axes.plot(known, [at] * len(known), color="#d9d9d9", linewidth=2, zorder=1)
            for value, colour in ends:
                if value is not None:
                    (mark,) = axes.plot(100 * value, at, "D", markersize=6.5, markeredgewidth=1.6)
                    mark.set(markerfacecolor="white", markeredgecolor=colour)
            text = " → ".join("-" if v is None else f"{100 * v:.1f}" for v, _ in ends)
            axes.text(
                1.02, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5
            )
        labels = [
            f"{backbone}, {benchmark.upper()}{f' {split}' if split != 'all' else ''}"
            for backbone, benchmark, split, _ in found
        ]
        name_rows(axes, labels, above=0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent: accuracy of POPE, hallucinated sentences of SHR")
    counts = sorted({f"{row.benchmark.upper()} {row.n}" for row in rows if row.n})
    note = "Grey: base; blue: tuned, as published; sources stand in the tables."
    note += f" n: {', '.join(counts)}." if counts else ""
    keys = ("backbone", "benchmark", "split", "measure")
    data = [dict(zip(keys, key, strict=True)) | values for key, values in found.items()]
    words = "; ".join(
        f"{label} {percent(v['base'])} to {percent(v['tuned'])}"
        for label, v in zip(labels, found.values(), strict=True)
    )
    return finish(drawing, "published", message, note=note, alt=f"{words}.", data=data)


def _published_message(found: Mapping[tuple[str, str, str, str], Mapping[str, Any]]) -> str:
    parts = []
    for name, text, sign in (
        ("accuracy", "POPE accuracy rises", 1),
        (_DUMBBELL_SHR, "SHR falls", -1),
    ):
        ends = [(v["base"], v["tuned"]) for key, v in found.items() if key[3] == name]
        known = [tuned - base for base, tuned in ends if base is not None and tuned is not None]
        if known:
            parts.append(f"{text} in {sum(sign * d > 0 for d in known)} of {len(known)} rows")
    return f"Published: {' and '.join(parts) or 'no pair of base and tuned'}."


def _dumbbell_row(axes: Axes, at: int, row: Mapping[str, Any]) -> None:
    base, tuned = row["base"], row["tuned"]
    is_fraction = _measure(row).is_fraction
    wide, unit = (100, 100) if is_fraction else (10, 1)  # places on the axis; what the text says
    if base is not None:
        axes.plot([wide * base, wide * tuned], [at, at], color="#c4c4c4", linewidth=3, zorder=1)
        axes.plot(wide * base, at, "o", color=GREY, markersize=8, zorder=3)
    axes.plot(wide * tuned, at, "o", color=BLUE, markersize=8, zorder=3)
    for name, colour in (("reported_base", GREY), ("reported_tuned", BLUE)):
        if row[name] is not None and not row["is_mini"]:
            style = {"markerfacecolor": "none", "markeredgecolor": colour, "markersize": 6}
            axes.plot(wide * row[name], at - 0.3, "D", zorder=2, **style)
    if row["difference"] is None:
        return
    text = f"{unit * row['difference']:+.1f}"
    if row["low"] is not None:
        text += f" [{unit * row['low']:+.1f}, {unit * row['high']:+.1f}]"
        text += " u" if row["interval"] == "unpaired" else ""
    axes.text(
        1.02,
        at,
        f"{text}, {row['n']}",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        fontweight="bold" if row["clear"] else "normal",
    )


def _measure(row: Mapping[str, Any]) -> Measure:
    return measure_of(row["benchmark"], row["measure"])


def _in_words(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    return percent(value) if _measure(row).is_fraction or value is None else f"{value:.1f}"


def _row_label(row: Mapping[str, Any], several: bool) -> str:
    measure = _measure(row).label
    split = split_title(row["benchmark"], row["split"])
    place = f"{split}: {measure}" if split else measure
    return f"{row['group']}\n{place}" if several else place


# Lengths of chosen and rejected texts: the first thing that preference training can exploit.


def length_figure(pairs: Sequence[Pair] | Sequence[Instruction]) -> Figure:
    """Words of the chosen against words of the rejected text, of the description pairs.

    Of all pairs if there are no descriptions. On the diagonal, length carries no signal. Of
    instructions: how long the answers of each kind are.
    """
    instructions = [record for record in pairs if isinstance(record, Instruction)]
    if instructions:
        return _answer_lengths(instructions)
    pairs = [record for record in pairs if isinstance(record, Pair)]
    shown = [p for p in pairs if p.kind == "description"] or list(pairs)
    if not shown:  # a run that only evaluates prepares none
        message = "No pairs, so there are no lengths to compare."
        return finish(new_drawing(6.2, 1.0), "pair_lengths", message, note="n = 0.", alt="")
    chosen = np.array([len(p.chosen.split()) for p in shown])
    rejected = np.array([len(p.rejected.split()) for p in shown])
    change = float(chosen.mean() / max(rejected.mean(), 1e-9) - 1)
    message = f"Chosen texts are {abs(change):.1%} {'longer' if change >= 0 else 'shorter'}."
    rng = np.random.default_rng(0)  # a little noise, so that equal points can be told apart
    jitter = rng.uniform(-0.3, 0.3, (2, len(shown)))
    end = float(max(chosen.max(), rejected.max()) + 2)
    with house_style():
        drawing = new_drawing(4.6, 4.2)
        axes = drawing.add_subplot()
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
    message = f"Words of an answer, mean: {means}."
    bins = range(max(max(counts) for counts in words.values()) + 2)
    with house_style():
        drawing = new_drawing(5.2, 3.4)
        axes = drawing.add_subplot()
        for kind, counts in words.items():
            axes.hist(counts, bins, histtype="step", linewidth=1.5, label=kind)
        axes.set(xlabel="words of the answer", ylabel="instructions")
        axes.legend(fontsize=8)
    data = [{"kind": kind, "words": n} for kind, counts in words.items() for n in counts]
    note, alt = f"n = {len(records)}.", "Histogram by kind."
    return finish(drawing, "answer_lengths", message, note=note, alt=alt, data=data)


# What is invented: against the length of the answer, and object by object.

_SHR, _WORDS = "hallucinated_sentence_ratio", "words_per_answer"
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
        is_measured = (benchmark, split, name, model) in result.metrics
        if name != _SHR or model not in _MARKS or not is_measured:
            continue
        lengths = result.items.get((benchmark, split, _WORDS, model), {})
        points[model] = [
            (image, lengths[image][0] / lengths[image][1], over / under)
            for image, (over, under) in sums.items()
            if under and image in lengths
        ]
    points = {model: points[model] for model in _MARKS if points.get(model)}
    if not points:
        raise BadInput("no judged descriptions by image: nothing to set against their length")
    slopes = {model: _correlation(found) for model, found in points.items()}
    texts = [f"{model_title(m)} {'-' if s is None else f'{s:+.2f}'}" for m, s in slopes.items()]
    message = f"Length and hallucination of an answer correlate: {', '.join(texts)}."
    with house_style():
        drawing = new_drawing()
        axes = drawing.add_subplot()
        rng = np.random.default_rng(0)  # a little noise, so that equal points can be told apart
        for model, found in points.items():
            x = np.array([p[1] for p in found])
            y = 100 * np.array([p[2] for p in found])
            colour, mark = MODEL_COLOURS.get(model, GREY), _MARKS[model]
            noise = rng.uniform(-0.4, 0.4, (2, len(x)))
            axes.plot(x + noise[0], y + noise[1], mark, color=colour, markersize=2.5, alpha=0.35)
            groups = [g for g in np.array_split(np.argsort(x, kind="stable"), _BINS) if len(g)]
            means = [(x[g].mean(), y[g].mean()) for g in groups]
            axes.plot(*zip(*means, strict=True), marker=mark, color=colour, linewidth=1.8)
            axes.annotate(
                f" {model_title(model)}, n {len(x)}", means[-1], color=colour, fontsize=7.5
            )
        axes.set(xlabel="words per answer", ylabel="hallucinated sentences (%)")
        axes.set_ylim(bottom=-2)
    note = f"{result.name}. Small: each image; large: means of {_BINS} groups by length."
    data = [
        {"model": model, "image_id": image, "words": length, _SHR: share}
        for model, found in points.items()
        for image, length, share in found
    ]
    alt = "Scatter of hallucinated sentences against words, with means by length."
    figure = finish(drawing, "shr_length", message, note=note, alt=alt, data=data)
    return figure.as_mini() if result.is_mini else figure


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
    real = {case: _present(known, spellings) for case, known in evidence.items()}
    judged = [case for case in _cases(verdicts, model) if real.get(case)]
    if not judged:
        raise BadInput(f"no judged image of {model!r} has annotated objects: nothing to count")
    found = _inventions(verdicts, real, spellings, model)
    absent = Counter(name for case in judged for name in objects if name not in real[case])
    times = Counter(name for case in judged for name in found.get(case, ()))
    shown = [name for name, _ in sorted(times.items(), key=lambda x: (-x[1], x[0]))][:most]
    present = Counter(name for case in judged for name in real[case])
    beside = [name for name, _ in sorted(present.items(), key=lambda x: (-x[1], x[0]))][:most]
    data = []
    for name in shown:
        for other in beside:
            cases = [c for c in judged if other in real[c] and name not in real[c]]
            hits = sum(name in found.get(c, ()) for c in cases)
            share = hits / len(cases) if cases else None
            data.append(
                {"model": model, "invented": name, "beside": other, "images": len(cases)}
                | {"times": hits, "share": share}
            )
    message = f"The {model_title(model)} invents no object."
    if shown:
        top = max(data, key=lambda row: (row["share"] or 0.0, row["images"]))
        message = (
            f"The {model_title(model)} invents {shown[0]} most; beside {top['beside']} it invents "
            f"{top['invented']} in {percent(top['share'])} of {top['images']} images."
        )
    with house_style():
        drawing = new_drawing(8.0, 0.28 * max(len(shown), 2) + 1.9)
        axes, bars = drawing.subplots(1, 2, width_ratios=(3, 1), sharey=True)
        grid = np.array([100 * (row["share"] or 0.0) for row in data])
        grid = grid.reshape(len(shown), len(beside)) if shown else np.zeros((1, len(beside) or 1))
        axes.imshow(grid, cmap="Greys", vmin=0, vmax=max(1.0, float(grid.max())), aspect="auto")
        for row, column in np.argwhere(grid >= 0.5):
            dark = grid[row, column] > 0.6 * grid.max()
            style = {"color": "white" if dark else "black", "fontsize": 6.5}
            text = f"{grid[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", **style)
        axes.set_xticks(range(len(beside)), beside, rotation=60, ha="right")
        axes.set_yticks(range(len(shown)), shown)
        axes.set(xlabel="real object in the image", ylabel="invented object")
        axes.grid(visible=False)
        rates = [100 * times[name] / absent[name] if absent[name] else 0.0 for name in shown]
        bars.barh(range(len(shown)), rates, color=BLUE if model == "merged" else GREY)
        for at, (name, rate) in enumerate(zip(shown, rates, strict=True)):
            bars.text(rate, at, f" {rate:.0f} %, {times[name]}", va="center", fontsize=6.5)
        bars.set(xlabel="% of images without it")
        bars.margins(x=0.45)
        bars.tick_params(axis="y", labelleft=False)
    note = f"Cells: percent of the images. n {len(judged)} images; bars: percent and times."
    counts = "; ".join(f"{name} {times[name]} times" for name in shown)
    alt = f"Heat map of invented against real objects. {counts}."
    return finish(drawing, f"invented_objects_{model}", message, note=note, alt=alt, data=data)


def _present(evidence: Evidence, spellings: Mapping[str, set[str]]) -> set[str]:
    """Objects of an image: those annotated, and those that its described boxes name."""
    said = {word for region in evidence.regions for word in words(region.phrase)}
    return {n for n, spelled in spellings.items() if n in evidence.objects or spelled & said}


def _cases(verdicts: Sequence[Verdict], model: str) -> list[str]:
    return list(dict.fromkeys(v.case_id for v in verdicts if v.model == model))


def _inventions(
    verdicts: Sequence[Verdict],
    real: Mapping[str, set[str]],
    spellings: Mapping[str, set[str]],
    model: str,
) -> dict[str, set[str]]:
    """By case, the absent objects that are named in sentences ruled a hallucination."""
    found: dict[str, set[str]] = defaultdict(set)
    for verdict in verdicts:
        if verdict.model == model and verdict.label == "hallucination":
            said = set(words(verdict.claim))
            named = {name for name, spelled in spellings.items() if spelled & said}
            found[verdict.case_id] |= named - real.get(verdict.case_id, set())
    return found


def _correlation(points: Sequence[tuple[str, float, float]]) -> float | None:
    x, y = np.array([p[1] for p in points]), np.array([p[2] for p in points])
    if len(points) < 3 or x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
