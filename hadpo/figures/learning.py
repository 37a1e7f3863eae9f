"""What a training does to the benchmarks on its way: base, kept steps, tuned."""

from collections.abc import Mapping
from typing import Any

from hadpo.figures._style import (
    BLUE,
    GREY,
    INK,
    Figure,
    house_style,
    new_drawing,
    spread,
    write_title,
)
from hadpo.records import BadInput
from hadpo.tables import RunResults, measure_of

STEP = "step-"  # what the names of kept steps begin with
_STYLES = ("-", "--", ":", "-.")  # told apart without colour
_COLOURS = (BLUE, INK, GREY, "#5a3e8e")
_Point = tuple[int, float, float | None, float | None, int]  # updates, value, its interval, n


def learning_curve(
    result: RunResults,
    *,
    updates: int,
    measures: Mapping[str, str] = {
        "pope": "accuracy",
        "shr": "hallucinated_sentence_ratio",
        "chair": "chair_i",
        "gavie": "accuracy",
    },
) -> Figure:
    """One line a benchmark and split over the updates, with the 95 % interval of each point.

    Args:
        result: a run that evaluated `step-<n>` models.
        updates: of the whole training: where the tuned model stands; the base stands at 0.
        measures: benchmark -> the metric to draw.

    Raises:
        BadInput: no kept step was evaluated.
    """
    names = {key[3] for key in result.metrics}
    steps = {name: int(name.removeprefix(STEP)) for name in names if name.startswith(STEP)}
    if not steps:
        raise BadInput(
            "no step-<n> was evaluated: train with keep_steps, and name steps in evaluate.models"
        )
    places = {"base": 0, **steps, "merged": updates}
    lines: dict[str, list[_Point]] = {}
    for benchmark, split, name, model in result.metrics:
        metric = result.metrics[benchmark, split, name, model]
        if measures.get(benchmark) != name or model not in places or metric.value is None:
            continue
        measure = measure_of(benchmark, name)
        scale = 100 if measure.is_fraction else 10  # scores of 0 to 10 as tenths
        label = f"POPE {split}: accuracy" if benchmark == "pope" else measure.label
        low, high = (None if e is None else scale * e for e in (metric.low, metric.high))
        point = (places[model], scale * metric.value, low, high, metric.n)
        lines.setdefault(label, []).append(point)
    if not lines:
        raise BadInput(f"none of {', '.join(measures.values())} was measured")
    for points in lines.values():
        points.sort(key=lambda point: point[0])
    changes = [
        f"{label} {points[0][1]:.1f} to {points[-1][1]:.1f}" for label, points in lines.items()
    ]
    message = f"Over {updates} updates: {'; '.join(changes)}."
    with house_style():
        drawing = new_drawing(7.0, 3.6)
        axes = drawing.add_subplot()
        for at, points in enumerate(lines.values()):
            x, y = [p[0] for p in points], [p[1] for p in points]
            colour = _COLOURS[at % len(_COLOURS)]
            axes.plot(x, y, _STYLES[at % len(_STYLES)], marker="o", markersize=4, color=colour)
            known = [p for p in points if p[2] is not None and p[3] is not None]
            if known:
                axes.fill_between(
                    [p[0] for p in known],
                    [p[2] for p in known],  # pyright: ignore[reportArgumentType]
                    [p[3] for p in known],  # pyright: ignore[reportArgumentType]
                    color=colour,
                    alpha=0.12,
                    linewidth=0,
                )
        heights = spread([points[-1][1] for points in lines.values()], 6)
        for at, ((label, points), height) in enumerate(zip(lines.items(), heights, strict=True)):
            colour = _COLOURS[at % len(_COLOURS)]
            axes.text(1.03 * points[-1][0], height, label, color=colour, fontsize=7.5, va="center")
        axes.set(xlabel="updates", ylabel="percent", xlim=(0, 1.45 * updates))
        axes.set_xticks(sorted(places.values()))
        note = f"{result.name}; 0 is the base. Bands: 95 % intervals over images."
        write_title(drawing, message, note=note, is_mini=result.is_mini)
    columns = ("line", "updates", "value", "low", "high", "n")
    data: list[dict[str, Any]] = [
        dict(zip(columns, (label, *point), strict=True))
        for label, points in lines.items()
        for point in points
    ]
    alt = f"{message} Lines over {', '.join(map(str, sorted(places.values())))} updates."
    return Figure(drawing, "learning_curve", message, alt, data)
