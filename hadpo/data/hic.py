"""Oxford HIC: humorous captions with scores.

File: `oxford_hic_data.csv` (image_id, caption, funny_score) with millions of rows, read one by one.
The ids are texts ("000417"), the scores have thousands separators ("1,234"), captions may hold line
breaks, and ids and captions may lack. `fetch.images` reads the addresses of the images.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hadpo.data import Report, check_text, read_csv

_DATA = "expected oxford_hic_data.csv with the columns image_id, caption, funny_score"
_COLUMNS = ("image_id", "caption", "funny_score")
# "1,234.5"; a comma elsewhere, as in "1.234,5", may mean another number
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_NULL = ("", "nan", "null", "none", "\\n")  # what exports write for nothing


class Row(NamedTuple):
    """One caption of one image; `score` is the site's count of votes."""

    image_id: str
    caption: str
    score: float


def read(path: Path, report: Report) -> Iterator[Row]:
    """The rows in file order, one at a time.

    Rows without id or caption are part of the release: they are left out and counted. A score that
    is no number, or infinite, makes the row a broken one.
    """
    for where, row in read_csv(path, report, source="hic", expected=_DATA, needs=_COLUMNS):
        image_id, caption, score = (row[name] for name in _COLUMNS)
        if _is_null(image_id) or _is_null(caption):
            what = "image_id" if _is_null(image_id) else "caption"
            report.left_out(f"rows without {what}", source="hic")
            continue
        try:
            yield Row(image_id, check_text(caption), _score(score))
        except ValueError as error:
            report.bad(f"{where}: {error}", source="hic")


def _score(text: str) -> float:
    plain = text.replace(",", "") if _THOUSANDS.fullmatch(text.strip()) else text
    try:
        score = float(plain) if plain.isascii() and "_" not in plain else math.nan
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"field 'funny_score': expected a number, found {text[:40]!r}")
    return score


def _is_null(text: str) -> bool:
    return len(text) <= 4 and text.strip().lower() in _NULL
