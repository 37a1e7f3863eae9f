"""Oxford HIC: humorous captions with scores, and the addresses of the images.

Files: `oxford_hic_data.csv` (image_id, caption, funny_score) with millions of rows, read one by
one, and `oxford_hic_image_info.csv` (image_id, image_url). The ids are texts ("000417"), the scores
have thousands separators ("1,234"), captions may hold line breaks, and ids and captions may lack.
"""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hadpo.data import Report, check_text
from hadpo.records import BadInput, replacing

_DATA = "expected oxford_hic_data.csv with the columns image_id, caption, funny_score"
_INFO = "expected oxford_hic_image_info.csv with the columns image_id, image_url"
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

    Raises:
        BadInput: no such file, empty, no UTF-8, no CSV, or columns missing.
    """
    for line, (image_id, caption, score) in _rows(
        path, ("image_id", "caption", "funny_score"), report, _DATA
    ):
        if _is_null(image_id):
            report.left_out("rows without image_id", source="hic")
            continue
        if _is_null(caption):
            report.left_out("rows without caption", source="hic")
            continue
        try:
            value = float(score.replace(",", "") if "," in score else score)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            report.bad(
                f"{path}:{line}: field 'funny_score': expected a number, found {score[:40]!r}",
                source="hic",
            )
            continue
        try:
            check_text(caption)
        except ValueError as error:
            report.bad(f"{path}:{line}: field 'caption': {error}", source="hic")
            continue
        yield Row(image_id, caption, value)


def urls(path: Path, report: Report) -> dict[str, str]:
    """Address of each image by id; if an id stands twice, the first counts, and that is counted.

    Raises:
        BadInput: as `read`.
    """
    addresses: dict[str, str] = {}
    for line, (image_id, url) in _rows(path, ("image_id", "image_url"), report, _INFO):
        if _is_null(image_id):
            report.left_out("addresses without image_id", source="hic")
        elif image_id in addresses:
            report.left_out("addresses of an id that was there", source="hic")
        elif not url.lower().startswith(("http://", "https://")):
            report.bad(
                f"{path}:{line}: field 'image_url': expected an address, found {url[:60]!r}",
                source="hic",
            )
        else:
            addresses[image_id] = url
    return addresses


def write(rows: Iterable[Row], path: Path) -> int:
    """Write rows as the data file; `read` gives them back. Whole scores have no decimals.

    Returns:
        How many were written.
    """
    count = 0
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("image_id", "caption", "funny_score"))
        for row in rows:
            score = f"{row.score:,.0f}" if row.score.is_integer() else repr(row.score)
            out.writerow((row.image_id, row.caption, score))
            count += 1
    return count


def _is_null(text: str) -> bool:
    return len(text) <= 4 and text.strip().lower() in _NULL


def _rows(
    path: Path, columns: tuple[str, ...], report: Report, expected: str
) -> Iterator[tuple[int, list[str]]]:
    """Line number and the named columns of each row; broken rows are reported."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {expected}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            names = [name.strip() for name in next(lines, [])]
            if not any(names):
                raise BadInput(f"{path}: the file is empty; {expected}")
            if names[0].lower().startswith(("<!doctype", "<html")):
                raise BadInput(f"{path}: an HTML page, not CSV: the download failed; {expected}")
            missing = [name for name in columns if name not in names]
            if missing:
                raise BadInput(
                    f"{path}:1: no column {', '.join(missing)} (found {names[:8]}); {expected}"
                )
            places = [names.index(name) for name in columns]
            for row in lines:
                if len(row) == len(names):
                    yield lines.line_num, [row[place] for place in places]
                elif row:
                    report.bad(
                        f"{path}:{lines.line_num}: expected {len(names)} columns, "
                        f"found {len(row)}: {row[0][:40]!r}",
                        source="hic",
                    )
        except csv.Error as error:
            raise BadInput(f"{path}:{lines.line_num}: not CSV ({error}); {expected}") from error
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: not UTF-8, after line {lines.line_num}; {expected}") from error
