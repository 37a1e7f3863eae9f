"""Lengths of chosen and rejected texts: the first thing that preference training can exploit."""

from collections.abc import Sequence

import numpy as np

from hadpo.figures._style import BLUE, GREY, Figure, house_style, new_drawing, write_title
from hadpo.records import BadInput, Instruction, Pair


def length_figure(pairs: Sequence[Pair] | Sequence[Instruction], *, is_mini: bool) -> Figure:
    """Words of the chosen against words of the rejected text, of the description pairs.

    Where there are no descriptions, of all pairs. On the diagonal, length carries no signal. Of
    instructions: how long the answers of each kind are.

    Raises:
        BadInput: no pairs.
    """
    instructions = [record for record in pairs if isinstance(record, Instruction)]
    if instructions:
        return _answer_lengths(instructions, is_mini=is_mini)
    pairs = [record for record in pairs if isinstance(record, Pair)]
    shown = [p for p in pairs if p.kind == "description"] or list(pairs)
    if not shown:
        raise BadInput("no pairs to measure")
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
        write_title(drawing, message, note=note, is_mini=is_mini)
    data = [
        {"pair_id": p.pair_id, "chosen_words": int(c), "rejected_words": int(r)}
        for p, c, r in zip(shown, chosen, rejected, strict=True)
    ]
    alt = f"{message} Scatter of words in the chosen against words in the rejected texts."
    return Figure(drawing, "pair_lengths", message, alt, data)


def _answer_lengths(records: Sequence[Instruction], *, is_mini: bool) -> Figure:
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
        write_title(drawing, message, note=f"n = {len(records)}.", is_mini=is_mini)
    data = [{"kind": kind, "words": n} for kind, counts in words.items() for n in counts]
    return Figure(drawing, "answer_lengths", message, f"{message} Histogram by kind.", data)
