"""Instructions to finetune on: read from every place that the recipe names, kept by kind.

A place is a file of our records (`.jsonl`, what the converters of `hadpo.instructions` write), one
of LRV's files (`.json`, its pictures in `image/` beside it, those of charts in `chart_image/`), a
folder in the layout of MiniGPT-4's second stage (`filter_cap.json` and `image/`), or `oracle`: made
from what is known about the images that no benchmark asks about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hadpo.config import names
from hadpo.data import Report, cc_sbu_align, lrv
from hadpo.instructions import oracle
from hadpo.pairs.material import Material
from hadpo.plugins import choices
from hadpo.records import BadInput, Instruction, read_jsonl

if TYPE_CHECKING:
    from hadpo.runs import Run

KINDS = ("positive", "negative", "chart", "caption")
ORACLE = "oracle"


def read(run: Run, known: Material, report: Report, counts: Counter[str]) -> list[Instruction]:
    """The instructions of all places that are of a wanted kind, at most `limit` of each kind.

    Args:
        run: paths of its recipe's data section are resolved; the files are hashed.
        known: for the oracle: its images and words.
        report: collects broken records.
        counts: grows: what was read, by source and kind, and what was left out.

    Raises:
        BadInput: no such place, an unknown kind, a place that gives nothing, the same id twice, or
            a weight that is not above 0.
    """
    settings = run.settings
    wanted = names(settings.instruction_kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise BadInput(f"instruction_kinds: no kind {kind!r}; {choices(kind, KINDS)}")
    found: dict[str, Instruction] = {}
    seen: Counter[str] = Counter()
    for place in places(run):
        before = len(found)
        for record in _at(run, place, known, report):
            counts[f"instructions read: {record.source}, {record.kind}"] += 1
            if record.kind not in wanted:
                counts["instructions left out: not of instruction_kinds"] += 1
                continue
            if not record.weight > 0:
                raise BadInput(f"{place}: {record.instruction_id} weighs {record.weight}, not > 0")
            if record.instruction_id in found:
                raise BadInput(f"{place}: a second instruction {record.instruction_id!r}")
            seen[record.kind] += 1
            if settings.limit and seen[record.kind] > settings.limit:
                continue
            found[record.instruction_id] = record
        if len(found) == before and not settings.limit:
            raise BadInput(
                f"{place}: no instruction of {', '.join(wanted)}; counts: {dict(counts)}"
            )
    return list(found.values())


def places(run: Run) -> list[str]:
    """The places that the recipe names."""
    return names(run.recipe.data.instructions)


def _at(run: Run, place: str, known: Material, report: Report) -> Iterable[Instruction]:
    if place == ORACLE:
        free = [e for key, e in known.images.items() if key not in known.evaluated]
        return oracle.instructions(free, known.vocabulary, seed=run.settings.prepare_seed)
    path = run.resolve(place)
    if not path.exists():
        raise BadInput(
            f"data.instructions: nothing at {path}; fetch or convert it, or mend the path"
        )
    if path.is_dir():
        run.note_input(path / "filter_cap.json")
        return _named(cc_sbu_align.read(path, report), path.name)
    run.note_input(path)
    if path.suffix == ".jsonl":
        return read_jsonl(path, Instruction)
    return lrv.read(path, _images(path), report)


def _named(records: Iterable[Instruction], name: str) -> Iterator[Instruction]:
    """Captions by the name of their folder: the files in them are all called the same."""
    for number, record in enumerate(records):
        yield replace(record, source=name, instruction_id=f"{name}-{number}")


def _images(path: Path) -> Path:
    """The folder of an LRV file's pictures."""
    charts = path.with_name("chart_image")
    return charts if path.name.startswith("chart") and charts.is_dir() else path.with_name("image")
