"""Facts without interval or benchmark, counts and settings, as a plain table for a notebook."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def facts(values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a fact, or one row a record; nested names are joined with a dot."""
    if isinstance(values, Mapping):
        rows = pd.Series(_flat(values), dtype=object).rename_axis("what").rename("value")
        return rows.reset_index()
    return pd.DataFrame([_flat(row) for row in values])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
