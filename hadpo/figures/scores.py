"""Scores of every benchmark that was evaluated, each beside the length of the answers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hadpo.figures._style import (
    GREY,
    INK,
    MODEL_COLOURS,
    Figure,
    house_style,
    new_drawing,
    write_title,
)
from hadpo.figures.bars import pope_bars, shr_bars
from hadpo.records import BadInput, Metric
from hadpo.tables import bars_of, measure_of, model_title, models_in_order

_WORDS = "words_per_answer"
_OWN = {"pope": pope_bars, "shr": shr_bars}  # benchmarks with figures of their own


@dataclass(frozen=True)
class Figures:
    """Several figures, one below the other."""

    figures: tuple[Figure, ...]

    def save(self, folder: Path) -> list[Path]:
        """Write all of them into `folder`."""
        return [path for figure in self.figures for path in figure.save(folder)]

    def _repr_html_(self) -> str:
        return "\n".join(figure._repr_html_() for figure in self.figures)


def benchmark_figures(metrics: Iterable[Metric], *, is_mini: bool) -> Figures:
    """A figure for each benchmark that the metrics are of.

    Raises:
        BadInput: no benchmark that has a figure.
    """
    all_of_them = list(metrics)
    names = {metric.benchmark for metric in all_of_them if metric.n}
    found = [bars(all_of_them, is_mini=is_mini) for name, bars in _OWN.items() if name in names]
    others = [name for name in sorted(names - _OWN.keys()) if bars_of(name)]
    found += [score_bars(all_of_them, name, is_mini=is_mini) for name in others]
    if not found:
        raise BadInput(f"no figure of the benchmarks {sorted(names)}")
    return Figures(tuple(found))


def score_bars(metrics: Iterable[Metric], benchmark: str, *, is_mini: bool) -> Figure:
    """The benchmark's scores with 95 % intervals, and beside them the words per answer.

    A model that only says less is seen: its bar on the right is shorter, too.

    Args:
        metrics: of any benchmarks.
        benchmark: whose; it declares what is drawn, see `hadpo.tables.bars_of`.
        is_mini: mark the picture as one of the synthetic world.

    Raises:
        BadInput: none of that benchmark.
    """
    shown = bars_of(benchmark)
    own = [metric for metric in metrics if metric.benchmark == benchmark]
    table: dict[str, dict[str, Metric]] = {}
    for metric in own:
        if metric.split == own[0].split:  # the whole comes first
            table.setdefault(metric.model, {})[metric.name] = metric
    order = models_in_order(m for m, found in table.items() if found.keys() & shown.keys())
    if not order:
        raise BadInput(f"no {benchmark} among the metrics; was the benchmark evaluated?")
    scale, unit = _scale(benchmark, next(iter(shown)))
    message = _message(benchmark, shown, table)
    with house_style():
        drawing = new_drawing(8.0, 0.26 * len(order) * len(shown) + 0.3 * len(shown) + 1.2)
        left, right = drawing.subplots(1, 2, width_ratios=(1.7, 1))
        place, ticks = 0.0, []
        for name, words in shown.items():
            left.text(0, place, words, fontweight="bold", fontsize=7.5)
            for model in order:
                place += 1
                ticks.append((place, model_title(model)))
                metric = table[model].get(name)
                if metric is None or metric.value is None:
                    continue
                value, end = scale * metric.value, scale * metric.value
                left.barh(place, value, 0.7, color=MODEL_COLOURS.get(model, GREY))
                if metric.low is not None and metric.high is not None:
                    end = scale * metric.high
                    ends = [[value - scale * metric.low], [end - value]]
                    left.errorbar(value, place, xerr=ends, color=INK, capsize=2, linewidth=1)
                lost = f", {metric.n_unreadable} unreadable" if metric.n_unreadable else ""
                text = f"  {value:.1f}, n {metric.n}{lost}"
                left.text(end, place, text, va="center", fontsize=7)
            place += 1.4
        left.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
        left.set_ylim(place - 0.8, -0.8)
        left.set(xlabel=unit, title=benchmark.upper())
        left.set_xlim(0, left.get_xlim()[1] * 1.3)
        for at, model in enumerate(order):
            metric = table[model].get(_WORDS)
            if metric is not None and metric.value is not None:
                right.barh(at, metric.value, 0.6, color=MODEL_COLOURS.get(model, GREY))
                right.text(metric.value, at, f" {metric.value:.1f}", va="center")
        right.set_yticks(range(len(order)), [model_title(m) for m in order])
        right.set_ylim(len(order) - 0.5, -0.5)
        right.set(xlabel="words per answer", title="Length")
        right.set_xlim(0, right.get_xlim()[1] * 1.2)
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0, colors=INK)
        write_title(drawing, message, note="Whiskers: 95 % intervals.", is_mini=is_mini)
    data = [
        {"model": model, **{n: _value(table[model], n) for n in (*shown, _WORDS)}}
        for model in order
    ]
    return Figure(drawing, f"{benchmark}_bars", message, f"{message} Bars for each model.", data)


def _scale(benchmark: str, name: str) -> tuple[float, str]:
    """What a metric is multiplied by, and the unit that it then has."""
    measure = measure_of(benchmark, name)
    return (100.0, "percent") if measure.is_fraction else (1.0, measure.scale)


def _message(
    benchmark: str, shown: Mapping[str, str], table: Mapping[str, Mapping[str, Metric]]
) -> str:
    first, words = next(iter(shown.items()))
    pair = [_value(table.get(model, {}), first) for model in ("base", "merged")]
    lengths = [_value(table.get(model, {}), _WORDS) for model in ("base", "merged")]
    if None in pair:
        return f"{benchmark.upper()}: scores beside the length of the answers."
    scale, unit = _scale(benchmark, first)
    sign = " %" if unit == "percent" else ""
    said = [f"{scale * value:.1f}{sign}" for value in pair if value is not None]
    length = ""
    if None not in lengths:
        length = f", while answers go from {lengths[0]:.1f} to {lengths[1]:.1f} words"
    return f"{benchmark.upper()}: {words} from {said[0]} to {said[1]}{length}."


def _value(found: Mapping[str, Metric], name: str) -> float | None:
    metric = found.get(name)
    return metric.value if metric else None
