"""What beta does: the margin that the best policy reaches, and how far it goes for it."""

from collections.abc import Sequence

import numpy as np

from hadpo.figures._style import BLUE, GREY, ORANGE, Figure, house_style, new_drawing, write_title


def beta_sweep(
    start: np.ndarray, betas: Sequence[float], marked: float, *, is_mini: bool
) -> Figure:
    """KL from the reference against the margin of the best policy, one point a beta.

    Between the two answers of a pair, the policy that is best for reward 1 on the chosen one less
    beta times KL is the reference with 1 / beta added to its log-odds (Eq. 4 of
    https://arxiv.org/abs/2305.18290).

    Args:
        start: the reference's log-odds of chosen over rejected, in nats, one a pair.
        betas: to draw.
        marked: the beta that the slider stands on.
        is_mini: mark the picture as one of the synthetic world.
    """
    every = np.array(betas, dtype=float)
    odds = start[None, :] + 1 / every[:, None]
    kl = _divergence(odds, start)
    margin = odds.mean(axis=1)
    right = (odds > 0).mean(axis=1)
    at = int(np.abs(every - marked).argmin())
    title = (
        f"beta {every[at]:g}: log-odds {margin[at]:+.1f} nats, {start.mean():+.1f} before; "
        f"{right[at]:.0%} of the pairs the right way round, at a KL of {kl[at]:.2f}."
    )
    with house_style():
        drawing = new_drawing(6.4, 3.6)
        axes = drawing.add_subplot()
        fine = start[None, :] + 1 / np.geomspace(every.min(), every.max(), 200)[:, None]
        axes.plot(fine.mean(axis=1), _divergence(fine, start), "-", color=GREY, linewidth=1)
        axes.plot(margin, kl, "o", color=BLUE, markersize=5)
        for x, y, beta in zip(margin, kl, every, strict=True):
            axes.annotate(f"{beta:g}", (x, y), xytext=(4, -10), textcoords="offset points")
        axes.plot(margin[at], kl[at], "D", color=ORANGE, markersize=9, markerfacecolor="none")
        axes.axvline(float(start.mean()), color=GREY, linestyle=":", linewidth=1)
        axes.annotate(
            "reference",
            (float(start.mean()), float(kl.max())),
            xytext=(4, -4),
            textcoords="offset points",
            color="#555555",
        )
        axes.set(
            xlabel="log-odds of chosen over rejected (nats)", ylabel="KL from reference (nats)"
        )
        note = f"n = {len(start)} pairs, means. Beside the points: beta. Diamond: the chosen beta."
        write_title(drawing, title, note=note, is_mini=is_mini)
    data = [
        {"beta": float(b), "log_odds": float(m), "kl": float(k), "right": float(r)}
        for b, m, k, r in zip(every, margin, kl, right, strict=True)
    ]
    return Figure(drawing, "beta_sweep", title, f"{title} KL against log-odds for each beta.", data)


def _divergence(odds: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Mean KL of each row's chances from those of `start`."""
    before, after = _chance(start)[None, :], _chance(odds)
    return (_part(after, before) + _part(1 - after, 1 - before)).mean(axis=1)


def _chance(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def _part(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """P log(p / q), 0 where p is 0."""
    return np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / np.maximum(q, 1e-300)), 0.0)
