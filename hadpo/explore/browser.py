"""Leafing through many cards: filters, an order, a search, and a page at a time."""

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ipywidgets as widgets

from hadpo.figures import Card
from hadpo.tables import MINI

_ALL = "all"


@dataclass(frozen=True, eq=False)
class Entry:
    """One thing to look at; it is drawn when its page is opened, not before."""

    draw: Callable[[], Card]
    facets: Mapping[str, str]  # what it can be filtered by: name -> value
    orders: Mapping[str, float] = field(default_factory=dict)  # what it can be sorted by
    text: str = ""  # what the search looks in


class Browser:
    """Entries behind controls; in a report, the first page of them.

    A browser of a run's results says once whether the run is of the synthetic world.

    Attributes:
        found: the entries that pass the filters, in their order.
        widget: the controls and the page, for JupyterLab.
    """

    def __init__(
        self, entries: Sequence[Entry], *, title: str, per_page: int = 3, is_mini: bool = False
    ) -> None:
        self.entries = entries
        self.found: list[Entry] = list(entries)
        self._title, self._per_page, self._is_mini = title, per_page, is_mini
        names = list(dict.fromkeys(name for entry in entries for name in entry.facets))
        self.filters = {name: self._filter(name) for name in names}
        orders = list(dict.fromkeys(name for entry in entries for name in entry.orders))
        self.order = widgets.Dropdown(
            options=["as they come", *orders], description="sorted by", layout=_WIDE
        )
        self.search = widgets.Text(
            description="with words",
            placeholder="then Enter",
            continuous_update=False,
            layout=_WIDE,
        )
        self.place = widgets.IntSlider(
            min=1, max=1, value=1, description="page", continuous_update=False, layout=_WIDE
        )
        self.count = widgets.HTML()
        self.shown = widgets.HTML()
        for control in (*self.filters.values(), self.order, self.search):
            control.observe(lambda _: self._select(), "value")
        self.place.observe(lambda _: self._show(), "value")
        rows = [*self.filters.values(), self.order, self.search, self.place]
        box = widgets.Box(rows, layout=widgets.Layout(flex_flow="row wrap"))
        self.widget = widgets.VBox([box, self.count, self.shown])
        self._select()

    @property
    def pages(self) -> int:
        """How many pages there are of what passes the filters."""
        return max(1, -(-len(self.found) // self._per_page))

    def cards(self) -> list[Card]:
        """What is on the open page."""
        at = (self.place.value - 1) * self._per_page
        return [entry.draw() for entry in self.found[at : at + self._per_page]]

    def _filter(self, name: str) -> widgets.Dropdown:
        counts = Counter(entry.facets[name] for entry in self.entries if name in entry.facets)
        options = [(f"{_ALL} ({len(self.entries)})", _ALL)]
        options += [(f"{value} ({count})", value) for value, count in sorted(counts.items())]
        return widgets.Dropdown(options=options, value=_ALL, description=name, layout=_WIDE)

    def _select(self) -> None:
        wanted = {n: f.value for n, f in self.filters.items() if f.value != _ALL}
        words = self.search.value.lower().split()
        self.found = [
            entry
            for entry in self.entries
            if all(entry.facets.get(name) == value for name, value in wanted.items())
            and all(word in entry.text.lower() for word in words)
        ]
        order = str(self.order.value)
        if any(order in entry.orders for entry in self.found):
            self.found.sort(key=lambda entry: -entry.orders.get(order, 0.0))
        with self.place.hold_trait_notifications():
            self.place.max = self.pages
            self.place.value = 1
        self._show()

    def _show(self) -> None:
        self.count.value = f"<p>{html.escape(self._count_text())}</p>"
        self.shown.value = self._page()

    def _count_text(self) -> str:
        place = f"page {self.place.value} of {self.pages}"
        mark = f" {MINI}." if self._is_mini else ""
        return f"{len(self.found)} of {len(self.entries)} {self._title}, {place}.{mark}"

    def _page(self) -> str:
        cards = "".join(card._repr_html_() for card in self.cards())
        return cards or "<p>Nothing passes these filters.</p>"

    def _repr_mimebundle_(self, **wanted: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = self.widget._repr_mimebundle_(**wanted) or {}
        bundle["text/html"] = f"<p>{html.escape(self._count_text())}</p>{self._page()}"
        bundle["text/plain"] = self._count_text()
        return bundle


_WIDE = widgets.Layout(width="300px")
