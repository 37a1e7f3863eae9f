"""Oxford HIC -> captions to finetune on: cleaned, the best of each image, split by image, weighted.

The original's section "Process the Oxford HIC dataset" is empty, and which captions its authors
trained on is not known; every choice here is a setting, and every row left out is counted. Rows
pass through a table on disk that ranks them, so memory does not grow with the file.
"""

import importlib.util
import math
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config import STRICT, Count, ShareBelowOne
from hadpo.data import Report, hic, inside
from hadpo.data.images import ImageChecks
from hadpo.data.lrv import write_list
from hadpo.plugins import choices
from hadpo.records import BadInput, Instruction, write_json, write_jsonl
from hadpo.text import fold

SOURCE = "oxford_hic_data.csv"
SPLITS = ("train", "val")
SURE = 0.5  # probability of a language; captions of a few words are often too short to tell
PROFANE = 0.5  # probability from which a caption counts as profane
_AT_ONCE = 5000  # rows that are filtered and put into the table together
_TABLE = """
CREATE TABLE rows (number INTEGER PRIMARY KEY, image_id TEXT, same TEXT, caption TEXT, score REAL);
"""
_RANKED = """
CREATE TABLE ranked AS SELECT number, image_id, caption, score,
  ROW_NUMBER() OVER (PARTITION BY image_id ORDER BY score DESC, number) AS rank
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY image_id, same ORDER BY score DESC, number) AS turn
      FROM rows) WHERE turn = 1;
"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HicSettings:
    """Which captions pass, and what they weigh."""

    min_score: float = 0.0  # votes that a caption needs
    top_k: Count = 0  # captions of each image, by score; 0: all
    min_words: Count = 1
    max_words: Count = 0  # 0: no limit
    languages: tuple[str, ...] = ()  # ISO 639-1; a caption that is likely in another one goes
    profanity: Literal["keep", "drop"] = "keep"
    dedupe: bool = True  # of captions of one image that differ in case, blanks and signs only
    val_share: ShareBelowOne = 0.0  # of the images, kept from training
    weighting: Literal["none", "log", "rank"] = "none"  # of the loss; the mean weight is 1
    seed: Count = 42  # draws the images of val


def convert(
    data: Path,
    images: Path,
    out: Path,
    settings: HicSettings,
    report: Report,
    *,
    checked: ImageChecks | None = None,
) -> dict[str, int]:
    """Write `<split>.jsonl` (records) and `<split>/filter_cap.json` + `image/` (MiniGPT-4 stage 2).

    A split without captions is not written. The counts of what was read, left out and why, and
    written are given back, and stand in `counts.json`.

    Args:
        data: oxford_hic_data.csv.
        images: folder of `<image_id>.jpg`.
        out: folder to write to.
        settings: which captions pass.
        report: collects broken rows.
        checked: findings on image files; None: each file is checked, and no finding is stored.

    Raises:
        BadInput: broken input (see `on_bad`), nothing left, or filters that are not installed.
    """
    filters = _filters(settings)
    out.mkdir(parents=True, exist_ok=True)
    place = out / "rows.sqlite.part"
    place.unlink(missing_ok=True)
    table = sqlite3.connect(place)
    try:
        table.execute("PRAGMA journal_mode=OFF")  # a table of this call only
        table.execute("PRAGMA synchronous=OFF")
        table.executescript(_TABLE)
        rows = hic.read(data, report)
        while group := list(islice(rows, _AT_ONCE)):
            report.left_out("rows read", source="hic", count=len(group))
            table.executemany(
                "INSERT INTO rows(image_id, same, caption, score) VALUES (?, ?, ?, ?)",
                (
                    (row.image_id, fold(row.caption), row.caption, row.score)
                    for row in _apply(filters, group, report)
                ),
            )
        if not settings.dedupe:
            table.execute("UPDATE rows SET same = number")
        _rank(table, settings, report)
        paths = _usable(table, images, checked or ImageChecks(None), report)
        counts = report.finish()
        counts |= _write(table, out, paths, settings)
    finally:
        table.close()
        place.unlink(missing_ok=True)
    counts = dict(sorted(counts.items()))
    write_json(out / "counts.json", counts)
    return counts


def _filters(settings: HicSettings) -> dict[str, Callable[[Sequence[hic.Row]], Sequence[bool]]]:
    """Why rows are dropped -> which rows of a list stay; the cheap filters first.

    Those of language and profanity cost far more than all others together, so they come last.
    """

    def length_fits(rows: Sequence[hic.Row]) -> list[bool]:
        most = settings.max_words or math.inf
        return [settings.min_words <= len(row.caption.split()) <= most for row in rows]

    filters: dict[str, Callable[[Sequence[hic.Row]], Sequence[bool]]] = {
        "score below min_score": lambda rows: [row.score >= settings.min_score for row in rows],
        "words outside the limits": length_fits,
    }
    if settings.languages:
        may_be = language_filter(settings.languages)
        filters["another language"] = lambda rows: [may_be(row.caption) for row in rows]
    if settings.profanity == "drop":
        are_clean = profanity_filter()
        filters["profane"] = lambda rows: are_clean([row.caption for row in rows])
    return filters


def _apply(
    filters: dict[str, Callable[[Sequence[hic.Row]], Sequence[bool]]],
    rows: Sequence[hic.Row],
    report: Report,
) -> Sequence[hic.Row]:
    """The rows that pass all filters."""
    for why, stays in filters.items():
        good = [row for row, ok in zip(rows, stays(rows), strict=True) if ok] if rows else rows
        report.left_out(why, source="hic", count=len(rows) - len(good))
        rows = good
    return rows


def _rank(table: sqlite3.Connection, settings: HicSettings, report: Report) -> None:
    """Fill `ranked` with the best captions of each image, without duplicates."""
    [(before,)] = table.execute("SELECT count(*) FROM rows")
    table.executescript(_RANKED)
    [(distinct,)] = table.execute("SELECT count(*) FROM ranked")
    report.left_out("duplicates", source="hic", count=before - distinct)
    if settings.top_k:
        gone = table.execute("DELETE FROM ranked WHERE rank > ?", (settings.top_k,)).rowcount
        report.left_out("not among the best of their image", source="hic", count=gone)


def _usable(
    table: sqlite3.Connection, images: Path, checked: ImageChecks, report: Report
) -> dict[str, Path]:
    """Path of each image that can be used; captions of the others are deleted and counted."""
    usable: dict[str, Path] = {}
    gone: list[tuple[str]] = []
    for (key,) in table.execute("SELECT DISTINCT image_id FROM ranked ORDER BY image_id"):
        try:
            path = inside(images, f"{key}.jpg", where=f"image_id {key[:40]!r}")
        except BadInput as error:
            report.bad(str(error), source="hic")
            gone.append((key,))
            continue
        problem = checked.findings([path])[str(path)].problem
        if problem:  # most dead addresses of the release: no file
            report.left_out(f"images: {problem.partition(' (')[0]}", source="hic")
            gone.append((key,))
        else:
            usable[key] = path
    table.execute("CREATE INDEX by_image ON ranked(image_id)")
    count = table.executemany("DELETE FROM ranked WHERE image_id = ?", gone).rowcount if gone else 0
    report.left_out("captions of images that cannot be used", source="hic", count=count)
    return usable


def _weight(settings: HicSettings) -> str:
    """SQL of a caption's weight before the mean is brought to 1."""
    return {"none": "1.0", "log": "1 + ln(1 + max(score, 0))", "rank": "1.0 / rank"}[
        settings.weighting
    ]


def _write(
    table: sqlite3.Connection, out: Path, paths: dict[str, Path], settings: HicSettings
) -> dict[str, int]:
    keys = sorted(paths)
    count = round(settings.val_share * len(keys))
    val = set(random.Random(f"{settings.seed}/hic val").sample(keys, count))
    table.create_function("in_val", 1, val.__contains__, deterministic=True)
    counts: dict[str, int] = {}
    for split in SPLITS:
        test = f"in_val(image_id) = {int(split == 'val')}"
        [(mean,)] = table.execute(f"SELECT avg({_weight(settings)}) FROM ranked WHERE {test}")
        if mean is None:
            continue
        query = (
            f"SELECT number, image_id, caption, score, rank, ({_weight(settings)}) / {mean or 1.0} "
            f"FROM ranked WHERE {test} ORDER BY image_id, rank"
        )
        counts[f"captions of {split}"] = _write_split(table, query, out, split, paths)
        counts[f"images of {split}"] = len(val) if split == "val" else len(keys) - len(val)
    if not counts:
        raise BadInput(f"{out}: no caption is left; see the settings and the counts")
    return counts


def _write_split(
    table: sqlite3.Connection, query: str, out: Path, split: str, paths: dict[str, Path]
) -> int:
    """One split, in both forms, row by row."""
    images = out / split / "image"
    images.mkdir(parents=True, exist_ok=True)
    for key in dict.fromkeys(key for _, key, *_ in table.execute(query)):
        if not (images / f"{key}.jpg").exists():
            _link(paths[key], images / f"{key}.jpg")
    records = (
        Instruction(
            instruction_id=f"hic-{number}",
            image_id=key,
            image=str(paths[key]),
            instruction="",
            answer=caption,
            kind="caption",
            source=SOURCE,
            task="humour",
            weight=weight,
        )
        for number, key, caption, _, _, weight in table.execute(query)
    )
    write_jsonl(out / f"{split}.jsonl", records)
    names = ["image_id", "caption", "funny_score", "rank"]
    rows = (dict(zip(names, row[1:5], strict=True)) for row in table.execute(query))
    return write_list(images.with_name("filter_cap.json"), rows, below="annotations")


def _link(image: Path, place: Path) -> None:
    """The image at a second place: a hard link, or a copy if that is another disk."""
    try:
        os.link(image.resolve(), place)
    except OSError:
        shutil.copyfile(image, place)


def language_filter(languages: Collection[str]) -> Callable[[str], bool]:
    """Whether a text may be in one of the languages (ISO 639-1): false if another one is likely.

    Raises BadInput for an unknown code, and without py3langid.
    """
    _require("py3langid")
    from py3langid import langid  # pyright: ignore[reportMissingImports]

    known = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    for code in languages:
        if code not in known.nb_classes:
            raise BadInput(f"no language {code!r}; {choices(code, set(known.nb_classes))}")

    def may_be(text: str) -> bool:
        # Capitals look like no language to a model of lower-case text.
        language, probability = known.classify(text.lower() if text.isupper() else text)
        return language in languages or probability < SURE

    return may_be


def profanity_filter() -> Callable[[Sequence[str]], list[bool]]:
    """Whether each of several texts is clean; BadInput without alt-profanity-check."""
    _require("profanity_check")
    import profanity_check  # pyright: ignore[reportMissingImports]

    def are_clean(texts: Sequence[str]) -> list[bool]:
        return [bool(p < PROFANE) for p in profanity_check.predict_prob(list(texts))]

    return are_clean


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise BadInput(
            "the filters of language and profanity are not installed; pip install -e '.[filters]', "
            "or leave them out"
        )
