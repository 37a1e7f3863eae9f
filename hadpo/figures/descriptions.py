"""What is invented: against the length of the answer, and object by object."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from hadpo.figures._style import (
    BLUE,
    GREY,
    MODEL_COLOURS,
    Figure,
    house_style,
    new_drawing,
    percent,
    write_title,
)
from hadpo.records import BadInput, Evidence, Verdict
from hadpo.tables import RunResults, model_title
from hadpo.text import forms, words

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
        write_title(drawing, message, note=note, is_mini=result.is_mini)
    data = [
        {"model": model, "image_id": image, "words": length, _SHR: share}
        for model, found in points.items()
        for image, length, share in found
    ]
    alt = f"{message} Scatter of hallucinated sentences against words, with means by length."
    return Figure(drawing, "shr_length", message, alt, data)


def invented_objects(
    verdicts: Sequence[Verdict],
    evidence: Mapping[str, Evidence],
    objects: Sequence[str],
    *,
    model: str = "base",
    most: int = 12,
    is_mini: bool,
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
        is_mini: mark the picture as one of the synthetic world.

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
        write_title(drawing, message, note=note, is_mini=is_mini)
    words_ = "; ".join(f"{name} {times[name]} times" for name in shown)
    alt = f"{message} Heat map of invented against real objects. {words_}."
    return Figure(drawing, f"invented_objects_{model}", message, alt, data)


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
