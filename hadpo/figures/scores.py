"""Scores of every benchmark that was evaluated: POPE's confusion matrices, and scores by length."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from hadpo.figures._style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    MODEL_COLOURS,
    ORANGE,
    PALE,
    SAND,
    Figure,
    finish,
    name_rows,
    panels,
    percent,
    text_beside,
)
from hadpo.figures.cards import Pictures
from hadpo.records import BadInput, Metric
from hadpo.tables import bars_of, measure_of, model_title, models_in_order

Values = Mapping[str, Metric]  # the metrics of one split and model, by name
_WORDS = "words_per_answer"
_SHR_PARTS = {  # kinds of hallucinated sentences: edge and hatch
    "absent_sentence_ratio": (ORANGE, "////"),
    "attribute_sentence_ratio": (SAND, ""),
}
_MORE = {"shr": (*_SHR_PARTS, "sentences_per_answer", "object_recall")}  # in the data only
_NOTES = {
    "shr": "Hatched: objects that are not there; pale: wrong attributes of objects that are. "
    "Whisker: 95 % interval of the sum. n: sentences judged.",
}
_OTHER = "#2f7f6f"  # a model that the tables do not know


def benchmark_figures(metrics: Iterable[Metric]) -> Pictures:
    """A figure for each benchmark that the metrics are of.

    Raises:
        BadInput: no benchmark that has a figure.
    """
    every = list(metrics)
    drawn = {(metric.benchmark, metric.name) for metric in every if metric.n}
    names = {benchmark for benchmark, _ in drawn}
    figures = [pope_bars(every)] if "pope" in names else []
    for name in sorted(names - {"pope"}, key=lambda name: (name != "shr", name)):
        if any((name, metric) in drawn for metric in bars_of(name)):
            figures.append(score_bars(every, name))
    if not figures:
        raise BadInput(f"no figure of the benchmarks {sorted(names)}")
    return Pictures(figures)


def score_bars(metrics: Iterable[Metric], benchmark: str) -> Figure:
    """The benchmark's scores with 95 % intervals, and beside them the words per answer.

    A model that only says less is seen: its bar on the right is shorter, too. SHR's sentences are
    parted into those with absent objects and those with wrong attributes. A benchmark declares what
    is drawn, see `hadpo.tables.bars_of`; `metrics` may be of any.

    Raises:
        BadInput: none of that benchmark.
    """
    shown = bars_of(benchmark)
    places = _by_place(metrics, benchmark)
    whole = next(iter(places), ("", ""))[0]  # the split that comes first
    table = {model: values for (split, model), values in places.items() if split == whole}
    order = models_in_order(m for m, values in table.items() if values.keys() & shown.keys())
    if not order:
        raise BadInput(f"no {benchmark.upper()} among the metrics; was the benchmark evaluated?")
    scale, unit = _scale(benchmark, next(iter(shown)))
    titles = [model_title(model) for model in order]
    rows: list[float] = []
    height = 0.26 * len(order) * len(shown) + 0.3 * len(shown) + 1.2
    with panels(8.0, height, 1, 2, width_ratios=(1.7, 1)) as (drawing, (left, right)):
        name_rows(right, titles)
        for number, (name, words) in enumerate(shown.items()):
            start = number * (len(order) + 1.4)
            left.text(0, start, words, fontweight="bold", fontsize=7.5)
            for at, model in enumerate(order, start=1):
                rows.append(start + at)
                if name in table[model]:
                    _draw_score(left, start + at, model, table[model], name, scale)
        for at, model in enumerate(order):
            length = _value(table[model], _WORDS)
            if length is not None:
                bar = right.barh(at, length, 0.6, color=MODEL_COLOURS.get(model, _OTHER))
                right.bar_label(bar, fmt=" %.1f")
        name_rows(left, titles * len(shown), rows=rows, above=0.8)
        left.set(xlabel=unit, title=benchmark.upper(), xlim=(0, 1.3 * left.get_xlim()[1]))
        right.set(xlabel="words per answer", title="Length", xlim=(0, 1.2 * right.get_xlim()[1]))
    names = (*shown, *_MORE.get(benchmark, ()), _WORDS)
    data = [{"model": m, **{name: _value(table[m], name) for name in names}} for m in order]
    note = _NOTES.get(benchmark, "Whiskers: 95 % intervals.")
    message, alt = _score_message(benchmark, shown, table), "Bars for each model."
    return finish(drawing, f"{benchmark}_bars", message, note=note, alt=alt, data=data)


def _draw_score(
    axes: Axes, place: float, model: str, values: Values, name: str, scale: float
) -> None:
    """One model's bar of one metric, in its parts if they were measured, with its interval."""
    metric = values[name]
    value = end = scale * (metric.value or 0.0)
    parts = _SHR_PARTS if name == "hallucinated_sentence_ratio" else {}
    left = 0.0
    for part, (colour, hatch) in parts.items():
        share = scale * (_value(values, part) or 0.0)
        bar = axes.barh(place, share, left=left, height=0.6, linewidth=0.8)
        bar[0].set(facecolor="white" if hatch else SAND, edgecolor=colour, hatch=hatch)
        left += share
    if not parts:
        axes.barh(place, value, 0.7, color=MODEL_COLOURS.get(model, _OTHER))
    elif value - left > 0.05:  # a judge that does not tell the kinds apart
        axes.barh(place, value - left, 0.6, left, facecolor="#eeeeee", edgecolor=GREY)
    if metric.value is not None and metric.low is not None and metric.high is not None:
        end = scale * metric.high
        ends = [[value - scale * metric.low], [end - value]]
        axes.errorbar(value, place, xerr=ends, color=INK, capsize=2, linewidth=1)
    text = "-" if metric.value is None else f"{value:.1f}"
    text += f", n {metric.n}" + f", {metric.n_unreadable} unreadable" * bool(metric.n_unreadable)
    axes.text(end, place, f"  {text}", va="center", fontsize=7)


def _scale(benchmark: str, name: str) -> tuple[float, str]:
    """What a metric is multiplied by, and the unit that it then has."""
    measure = measure_of(benchmark, name)
    return (100.0, "percent") if measure.is_fraction else (1.0, measure.scale)


def _score_message(benchmark: str, shown: Mapping[str, str], table: Mapping[str, Values]) -> str:
    first, words = next(iter(shown.items()))
    before, after = (_value(table.get(model, {}), first) for model in ("base", "merged"))
    if before is None or after is None:
        return f"{benchmark.upper()}: scores beside the length of the answers."
    scale, unit = _scale(benchmark, first)
    ends = [f"{scale * value:.1f}{' %' * (unit == 'percent')}" for value in (before, after)]
    lengths = [_value(table[model], _WORDS) for model in ("base", "merged")]
    more = ""
    if None not in lengths:
        more = f", while answers go from {lengths[0]:.1f} to {lengths[1]:.1f} words"
    return f"{benchmark.upper()}: {words} from {ends[0]} to {ends[1]}{more}."


# POPE: who was told yes and no, rightly and wrongly.

_POPE_PARTS = (  # the order puts all yes answers first: their end is the yes ratio
    ("true_positives", "TP", BLUE, ""),
    ("false_positives", "FP", ORANGE, "////"),
    ("false_negatives", "FN", SAND, "\\\\\\\\"),
    ("true_negatives", "TN", PALE, ""),
)


def pope_bars(metrics: Iterable[Metric], *, title: str = "") -> Figure:
    """Answers of yes and no, right and wrong, per split and model; yes answers on the left.

    Raises:
        BadInput: no confusion counts of POPE among `metrics`.
    """
    table = _by_place(metrics, "pope")
    bars = [(split, model) for split, model in table if "true_positives" in table[split, model]]
    if not bars:
        raise BadInput(
            "no confusion counts of pope among the metrics; was the benchmark evaluated?"
        )
    order = models_in_order(model for _, model in bars)
    splits = list(dict.fromkeys(split for split, _ in bars))
    data: list[dict[str, Any]] = []
    place = 0.0
    with panels(8.0, 0.3 * len(bars) + 0.25 * len(splits) + 1.4) as (drawing, axes):
        for split in splits:
            count = max(table[split, m]["true_positives"].n for m in order if (split, m) in bars)
            axes.text(-0.012, place, f"{split}, n {count}", fontweight="bold", ha="right")
            for model in order:
                if (split, model) in bars:
                    place += 0.55
                    values = table[split, model]
                    _stack(axes, place, values, name_parts=not data)
                    names = (*(name for name, *_ in _POPE_PARTS), "accuracy", "yes_ratio")
                    rates = {name: _value(values, name) for name in names}
                    data.append({"split": split, "model": model, **rates})
                    axes.text(-0.012, place, model_title(model), ha="right", va="center")
            place += 0.85
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(place - 0.35, -0.35), yticks=[])
        axes.set_xlabel("share of the questions; dotted: half, as many as have the answer yes")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        text_beside(axes, 0.08, "wrong yes, no; accuracy [95 %]", color=FAINT, va="baseline")
    note = (
        "TP, FP: said yes, rightly and wrongly; TN, FN: said no, rightly and wrongly; hatched: "
        "wrong. The black mark, where the yes answers end, is the yes ratio."
    )
    words = "; ".join(
        f"{row['split']} {model_title(row['model'])}: accuracy {percent(row['accuracy'])}, "
        f"yes ratio {percent(row['yes_ratio'])}"
        for row in data
    )
    message, alt = title or _pope_message(table, splits), f"Stacked bars. {words}."
    return finish(drawing, "pope_bars", message, note=note, alt=alt, data=data)


def _stack(axes: Axes, place: float, values: Values, *, name_parts: bool) -> None:
    counts = {name: values[name].value or 0 for name, *_ in _POPE_PARTS}
    total = sum(counts.values()) or 1
    left = 0.0
    for name, short, colour, hatch in _POPE_PARTS:
        share = counts[name] / total
        bar = axes.barh(place, share, left=left, height=0.46, color=colour, edgecolor="white")
        if hatch:
            bar[0].set(facecolor=SAND, edgecolor=ORANGE, hatch=hatch, linewidth=0)
        elif share > 0.06:
            ink = "white" if colour == BLUE else INK
            style = {"ha": "center", "va": "center", "fontsize": 7, "color": ink}
            axes.text(left + share / 2, place, f"{counts[name]:.0f}", style)
        if name_parts and share > 0:
            axes.text(left + share / 2, place - 0.3, short, ha="center", fontsize=7.5)
        left += share
    yes = (counts["true_positives"] + counts["false_positives"]) / total
    axes.plot([yes, yes], [place - 0.24, place + 0.24], color=INK, linewidth=2.5)
    text = f"{counts['false_positives']:.0f}, {counts['false_negatives']:.0f};"
    text += f" {percent(_value(values, 'accuracy'))} "
    accuracy = values.get("accuracy")
    if accuracy and accuracy.low is not None and accuracy.high is not None:
        text += f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"
    text_beside(axes, place, text)


def _pope_message(table: Mapping[tuple[str, str], Values], splits: Sequence[str]) -> str:
    split = "adversarial" if "adversarial" in splits else splits[-1]
    both = [table.get((split, m), {}) for m in ("base", "merged")]
    if not all(both):
        return f"POPE: the answers of {len(table)} splits and models."
    yes = [percent(_value(values, "yes_ratio")) for values in both]
    right = [percent(_value(values, "accuracy")) for values in both]
    return (
        f"{split.capitalize()} questions: the base says yes to {yes[0]}, the tuned model to "
        f"{yes[1]}; accuracy goes from {right[0]} to {right[1]}."
    )


def _by_place(
    metrics: Iterable[Metric], benchmark: str
) -> dict[tuple[str, str], dict[str, Metric]]:
    table: dict[tuple[str, str], dict[str, Metric]] = {}
    for metric in metrics:
        if metric.benchmark == benchmark:
            table.setdefault((metric.split, metric.model), {})[metric.name] = metric
    return table


def _value(values: Values, name: str) -> float | None:
    metric = values.get(name)
    return metric.value if metric else None
