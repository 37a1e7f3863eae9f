"""CHAIR's inputs: a file of synonyms, and lists of photos.

The synonyms have one object a line: its name, then other words for it, separated by a comma and a
blank, as in the file that comes with CHAIR. A user names or fetches that file; the mini world
brings its own. Objects and captions of the photos are COCO's, see `hadpo.data.coco.annotated`.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from hadpo.data import Report, question
from hadpo.plugins import choices
from hadpo.records import BadInput, Evidence, Question, decode, read_text

SPLIT = "val"
PROMPT = "Describe this image in detail."
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

    Raises BadInput for no such list or file, or a line without a number.
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


def questions(photos: Mapping[str, Evidence], prompt: str = PROMPT) -> list[Question]:
    """A description of every photo."""
    return [question("chair", key, each, prompt, split=SPLIT) for key, each in photos.items()]
