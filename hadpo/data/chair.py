"""CHAIR's two inputs: a file of synonyms, and the photos whose objects are known.

The synonyms have one object a line: its name, then other words for it, separated by commas, as in
the file that comes with CHAIR. A user names or fetches that file; the mini world brings its own.
"""

from collections.abc import Mapping
from pathlib import Path

from hadpo.data import Report
from hadpo.records import BadInput, Evidence, Question, read_text

SPLIT = "val"
PROMPT = "Describe this image in detail."
_EXPECTED = "expected lines of an object's name and its synonyms, separated by commas"


def synonyms(path: Path, report: Report) -> dict[str, str]:
    """Word or words -> the object that they mean; a name means itself.

    If a word stands under two objects, the last counts, as in the original; that is reported.

    Raises:
        BadInput: no such file, or nothing in it.
    """
    meanings: dict[str, str] = {}
    for line in read_text(path, expected=_EXPECTED).splitlines():
        words = [" ".join(word.lower().split()) for word in line.split(",")]
        words = [word for word in words if word]
        for word in words:
            if meanings.get(word, words[0]) != words[0]:
                report.left_out("words under two objects (the last counts)", source="chair")
            meanings[word] = words[0]
    if not meanings:
        raise BadInput(f"{path}: no words in it; {_EXPECTED}")
    return meanings


def questions(photos: Mapping[str, Evidence]) -> list[Question]:
    """A description of every photo whose objects are known."""
    return [
        Question(
            question_id=f"chair-{key}",
            benchmark="chair",
            split=SPLIT,
            image_id=key,
            image=evidence.image,
            text=PROMPT,
        )
        for key, evidence in photos.items()
        if evidence.objects
    ]
