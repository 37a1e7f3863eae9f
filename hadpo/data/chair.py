"""CHAIR's inputs: a file of synonyms, lists of photos, and what COCO says of these.

The synonyms have one object a line: its name, then other words for it, separated by a comma and a
blank, as in the file that comes with CHAIR. A user names or fetches that file; the mini world
brings its own. COCO's instances and captions are those of train2014 and val2014, all four.
"""

import functools
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from hadpo.data import Report, coco
from hadpo.plugins import choices
from hadpo.records import BadInput, Evidence, Question, decode, read_text

SPLIT = "val"
PROMPT = "Describe this image in detail."
PARTS = ("train2014", "val2014")
FILES = tuple(f"{kind}_{part}.json" for part in PARTS for kind in ("instances", "captions"))
_EXPECTED = "expected lines of an object's name and its synonyms, separated by commas"
_IDS = "expected lines that hold a photo's id or file name"


def synonyms(path: Path, report: Report) -> dict[str, str]:
    """Word or words -> the object that they mean; a name means itself.

    Words stand as in the file, with the blanks and capitals by which the original never finds some
    of them. If a word stands under two objects, the last counts, as there; that is reported.

    Raises:
        BadInput: no such file, or nothing in it.
    """
    meanings: dict[str, str] = {}
    for line in read_text(path, expected=_EXPECTED).splitlines():
        words = [word.removeprefix(" ") for word in line.strip().split(",") if word.strip()]
        for word in words:
            name = " ".join(words[0].lower().split())
            if meanings.get(word, name) != name:
                report.left_out("words under two objects (the last counts)", source="chair")
            meanings[word] = name
    if not meanings:
        raise BadInput(f"{path}: no words in it; {_EXPECTED}")
    return meanings


@functools.cache
def _lists() -> dict[str, list[int]]:
    """The papers' 500 photos each: OPERA's log/chair_eval_results, less-is-more's CHAIR-eval."""
    return json.loads(Path(__file__).with_name("chair_photos.json").read_text(encoding="utf-8"))


def listed(text: str, resolve: Callable[[str], Path]) -> list[int] | None:
    """COCO's numbers of the photos of a list, or of a file of ids; None for the empty name.

    Raises:
        BadInput: no such list or file, or a line without a number.
    """
    if not text or text in _lists():
        return _lists().get(text)
    path = resolve(text)
    if not path.is_file():
        raise BadInput(f"chair_photos: no file {path}, no list {text!r}; {choices(text, _lists())}")
    found = []
    for number, line in enumerate(read_text(path, expected=_IDS).splitlines(), start=1):
        where, place = f"{path}:{number}", line
        if line.strip().startswith("{"):
            record = decode(line, where=where)
            place = str(record.get("image", record.get("image_id")))
        digits = re.search(r"(\d+)(?:\.\w+)?\s*$", place)
        if digits is None:
            raise BadInput(f"{where}: no photo's id in {line[:80]!r}; {_IDS}")
        found.append(int(digits[1]))
    return found


def annotated(
    folder: Path, photos: Path, ids: Collection[int] | None, report: Report
) -> dict[str, Evidence]:
    """Objects, and captions as facts, of photos by their file's name, in the order of the ids.

    A photo without captions has an empty one.

    Args:
        folder: with COCO's instances and captions of train2014 and val2014.
        photos: folder with train2014 and val2014.
        ids: COCO's numbers; None: all of val2014.
        report: collects broken records.

    Raises:
        BadInput: one of the four files is missing, or says nothing of a photo.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise BadInput(
            f"{folder / missing[0]}: no such file; CHAIR's truth is instances and captions of "
            "train2014 and val2014, all four: hadpo fetch coco2014"
        )
    found: dict[int, Evidence] = {}
    for part in PARTS if ids is not None else PARTS[1:]:
        wanted = None if ids is None else set(ids) - found.keys()
        known = coco.instances(folder / f"instances_{part}.json", photos / part, report, ids=wanted)
        said = coco.captions(folder / f"captions_{part}.json", report, ids=wanted)
        for key, each in known.items():
            number = _number(key)
            found[number] = replace(each, facts=said.get(number, ("",)))
    if lost := [number for number in ids or () if number not in found]:
        raise BadInput(f"{folder}: nothing of {len(lost)} photos of the list: {lost[:5]}")
    return {found[n].image_id: found[n] for n in (found if ids is None else ids)}


def of_list(images: Mapping[str, Evidence], ids: Collection[int] | None) -> dict[str, Evidence]:
    """The photos of a list, in its order; None: all of val2014."""
    photos = {k: e for k, e in images.items() if k.startswith(("COCO_val2014_", "COCO_train2014_"))}
    if ids is None:
        return {key: each for key, each in photos.items() if key.startswith("COCO_val2014_")}
    by_number = {_number(key): each for key, each in photos.items()}
    return {by_number[number].image_id: by_number[number] for number in ids}


def _number(key: str) -> int:
    """COCO's number of a photo; all twelve digits of its file's name count."""
    return int(key.rpartition("_")[2])


def questions(photos: Mapping[str, Evidence], prompt: str = PROMPT) -> list[Question]:
    """A description of every photo."""
    return [
        Question(
            question_id=f"chair-{key}",
            benchmark="chair",
            split=SPLIT,
            image_id=key,
            image=evidence.image,
            text=prompt,
        )
        for key, evidence in photos.items()
    ]
