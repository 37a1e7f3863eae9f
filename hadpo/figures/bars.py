"""Results as bars: POPE's confusion matrices, and SHR beside the length of the answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from hadpo.figures._style import (
    BLUE,
    GREY,
    INK,
    MODEL_COLOURS,
    ORANGE,
    PALE,
    SAND,
    Figure,
    house_style,
    new_drawing,
    percent,
    write_title,
)
from hadpo.records import BadInput, Metric
from hadpo.tables import MODELS, model_title

_PARTS = (  # the order puts all yes answers first: their end is the yes ratio
    ("true_positives", "TP", BLUE, ""),
    ("false_positives", "FP", ORANGE, "////"),
    ("false_negatives", "FN", SAND, "\\\\\\\\"),
    ("true_negatives", "TN", PALE, ""),
)
_OTHER = "#2f7f6f"  # a model that the tables do not know


def pope_bars(metrics: Iterable[Metric], *, title: str = "", is_mini: bool) -> Figure:
    """Who was told yes and no, rightly and wrongly, per split and model; yes answers on the left.

    Raises:
        BadInput: no confusion counts of POPE among `metrics`.
    """
    table = _by_place(metrics, "pope")
    bars = [(split, model) for split, model in table if "true_positives" in table[split, model]]
    if not bars:
        raise BadInput(
            "no confusion counts of pope among the metrics; was the benchmark evaluated?"
        )
    order = _in_order(model for _, model in bars)
    splits = list(dict.fromkeys(split for split, _ in bars))
    data: list[dict[str, Any]] = []
    with house_style():
        drawing = new_drawing(8.0, 0.3 * len(bars) + 0.25 * len(splits) + 1.4)
        axes = drawing.add_subplot()
        place = 0.0
        for split in splits:
            count = max(table[split, m]["true_positives"].n for m in order if (split, m) in bars)
            axes.text(-0.012, place, f"{split}, n {count}", fontweight="bold", ha="right")
            for model in order:
                if (split, model) in bars:
                    place += 0.55
                    found = table[split, model]
                    _stack(axes, place, found, name_parts=not data)
                    counts = {name: found[name].value for name, *_ in _PARTS}
                    rates = {n: _value(found, n) for n in ("accuracy", "yes_ratio")}
                    data.append({"split": split, "model": model, **counts, **rates})
                    axes.text(-0.012, place, model_title(model), ha="right", va="center")
            place += 0.85
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(place - 0.35, -0.35), yticks=[])
        axes.set_xlabel("share of the questions; dotted: half, as many as have the answer yes")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.text(1.01, 0.08, "wrong yes, no; accuracy [95 %]", fontsize=7.5, color="#555555")
        message = title or _pope_message(table, splits)
        note = (
            "TP, FP: said yes, rightly and wrongly; TN, FN: said no, rightly and wrongly; hatched: "
            "wrong. The black mark, where the yes answers end, is the yes ratio."
        )
        write_title(drawing, message, note=note, is_mini=is_mini)
    words = "; ".join(
        f"{row['split']} {model_title(row['model'])}: accuracy {percent(row['accuracy'])}, "
        f"yes ratio {percent(row['yes_ratio'])}"
        for row in data
    )
    return Figure(drawing, "pope_bars", message, f"{message} Stacked bars. {words}.", data)


def shr_bars(metrics: Iterable[Metric], *, title: str = "", is_mini: bool) -> Figure:
    """Sentences with absent objects and with wrong attributes, beside the length of the answers.

    Raises:
        BadInput: no SHR among `metrics`.
    """
    table = _by_place(metrics, "shr")
    found = {model: values for (_, model), values in table.items()}
    order = _in_order(m for m in found if "hallucinated_sentence_ratio" in found[m])
    if not order:
        raise BadInput("no SHR among the metrics; was the benchmark evaluated?")
    message = title or _shr_message(found)
    names = ("hallucinated_sentence_ratio", "absent_sentence_ratio", "attribute_sentence_ratio")
    names += ("words_per_answer", "sentences_per_answer", "object_recall")
    data = [{"model": m, **{n: _value(found[m], n) for n in names}} for m in order]
    with house_style():
        drawing = new_drawing(8.0, 0.42 * len(order) + 1.7)
        left, right = drawing.subplots(1, 2, width_ratios=(1.7, 1), sharey=True)
        for at, model in enumerate(order):
            _shr_row(left, at, found[model])
            words = _value(found[model], "words_per_answer")
            if words is not None:
                right.barh(at, words, height=0.6, color=MODEL_COLOURS.get(model, _OTHER))
                right.text(words, at, f" {words:.1f}", va="center")
        left.set_yticks(range(len(order)), [model_title(m) for m in order])
        left.tick_params(axis="y", length=0, colors=INK)
        right.tick_params(axis="y", length=0)
        left.set(title="Hallucinated sentences (SHR)", xlabel="percent of the sentences")
        right.set(title="Length", xlabel="words per answer")
        left.set_ylim(len(order) - 0.5, -0.5)
        left.set_xlim(0, left.get_xlim()[1] * 1.25)
        right.set_xlim(0, right.get_xlim()[1] * 1.2)
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
        note = (
            "Hatched: objects that are not there; pale: wrong attributes of objects that are. "
            "Whisker: 95 % interval of the sum. n: sentences judged."
        )
        write_title(drawing, message, note=note, is_mini=is_mini)
    words = "; ".join(
        f"{model_title(r['model'])}: {percent(r['hallucinated_sentence_ratio'])} hallucinated"
        for r in data
    )
    return Figure(drawing, "shr_bars", message, f"{message} Bars. {words}.", data)


Values = Mapping[str, Metric]


def _stack(axes: Axes, place: float, found: Values, *, name_parts: bool) -> None:
    counts = {name: found[name].value or 0 for name, *_ in _PARTS}
    total = sum(counts.values()) or 1
    left = 0.0
    for name, short, colour, hatch in _PARTS:
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
    wrong = f"{counts['false_positives']:.0f}, {counts['false_negatives']:.0f};"
    text = f"{wrong} {percent(_value(found, 'accuracy'))} {_ends(found.get('accuracy'))}"
    axes.text(1.01, place, text, va="center", fontsize=7.5)


def _shr_row(axes: Axes, at: int, found: Values) -> None:
    total = found["hallucinated_sentence_ratio"]
    parts = (("absent_sentence_ratio", ORANGE, "////"), ("attribute_sentence_ratio", SAND, ""))
    left = 0.0
    for name, colour, hatch in parts:
        share = 100 * (_value(found, name) or 0.0)
        bar = axes.barh(at, share, left=left, height=0.6, linewidth=0.8)
        bar[0].set(facecolor="white" if hatch else SAND, edgecolor=colour, hatch=hatch)
        left += share
    rest = 100 * (total.value or 0.0) - left
    if rest > 0.05:  # a judge that does not tell the kinds apart
        axes.barh(at, rest, left=left, height=0.6, facecolor="#eeeeee", edgecolor=GREY)
        left += rest
    end = left
    if total.low is not None and total.high is not None:
        ends = [[left - 100 * total.low], [100 * total.high - left]]
        axes.errorbar(left, at, xerr=ends, color=INK, capsize=3, linewidth=1)
        end = 100 * total.high
    axes.text(end, at, f"  {percent(total.value)}, n {total.n}", va="center", fontsize=7.5)


def _in_order(models: Iterable[str]) -> list[str]:
    """Models in the order of the tables; those that the tables do not know come last, by name."""
    found = set(models)
    return [m for m in MODELS if m in found] + sorted(found - MODELS.keys())


def _by_place(
    metrics: Iterable[Metric], benchmark: str
) -> dict[tuple[str, str], dict[str, Metric]]:
    table: dict[tuple[str, str], dict[str, Metric]] = {}
    for metric in metrics:
        if metric.benchmark == benchmark:
            table.setdefault((metric.split, metric.model), {})[metric.name] = metric
    return table


def _pope_message(table: Mapping[tuple[str, str], Values], splits: Sequence[str]) -> str:
    split = "adversarial" if "adversarial" in splits else splits[-1]
    both = [table.get((split, m), {}) for m in ("base", "merged")]
    if not all(both):
        return f"POPE: the answers of {len(table)} splits and models."
    yes = [percent(_value(found, "yes_ratio")) for found in both]
    right = [percent(_value(found, "accuracy")) for found in both]
    return (
        f"{split.capitalize()} questions: the base says yes to {yes[0]}, the tuned model to "
        f"{yes[1]}; accuracy goes from {right[0]} to {right[1]}."
    )


def _shr_message(found: Mapping[str, Values]) -> str:
    if "base" not in found or "merged" not in found:
        return "Hallucinated sentences beside the length of the answers."
    shr, words = (
        [_value(found[m], name) for m in ("base", "merged")]
        for name in ("hallucinated_sentence_ratio", "words_per_answer")
    )
    length = (
        "" if None in words else f", while answers go from {words[0]:.1f} to {words[1]:.1f} words"
    )
    return f"Hallucinated sentences go from {percent(shr[0])} to {percent(shr[1])}{length}."


def _value(found: Values, name: str) -> float | None:
    metric = found.get(name)
    return metric.value if metric else None


def _ends(metric: Metric | None) -> str:
    if metric is None or metric.low is None or metric.high is None:
        return ""
    return f"[{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
