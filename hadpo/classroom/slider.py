"""A slider that redraws one picture; in a report, the picture stays."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from hadpo.figures import Figure, beta_sweep

BETAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Slid:
    """A picture of one value that a slider chooses.

    Attributes:
        slider: the control.
        widget: the control and the picture, for JupyterLab.
    """

    def __init__(
        self, draw: Callable[[float], Figure], values: Sequence[float], value: float, name: str
    ) -> None:
        self._draw = draw
        self.slider = widgets.SelectionSlider(
            options=[(f"{v:g}", v) for v in values],
            value=value,
            description=name,
            continuous_update=False,
        )
        self.shown = widgets.HTML()
        self.widget = widgets.VBox([self.slider, self.shown])
        self.slider.observe(lambda _: self._show(), "value")
        self._show()

    def _show(self) -> None:
        self.shown.value = self._draw(self.slider.value)._repr_html_()

    def _repr_mimebundle_(self, **wanted: Any) -> dict[str, Any]:
        bundle = dict(self.widget._repr_mimebundle_(**wanted))
        bundle["text/html"] = self.shown.value
        bundle["text/plain"] = f"{self.slider.description} = {self.slider.value:g}"
        return bundle


def beta_slider(
    chosen: np.ndarray, rejected: np.ndarray, *, beta: float = 0.1, is_mini: bool
) -> Slid:
    """How far the best policy goes from the reference, and what margin it gets, by beta.

    Args:
        chosen: the reference's log-probabilities of the chosen answers, in nats.
        rejected: of the rejected ones.
        beta: where the slider begins.
        is_mini: mark the picture as one of the synthetic world.
    """
    start = chosen - rejected
    return Slid(lambda at: beta_sweep(start, BETAS, at, is_mini=is_mini), BETAS, beta, "beta")
