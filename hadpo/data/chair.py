"""CHAIR's two inputs: a file of synonyms, and the photos whose objects are known.

The synonyms have one object a line: its name, then other words for it, separated by commas, as in
the file that comes with CHAIR. A user names or fetches that file; the mini world brings its own.
"""

from collections.abc import Mapping
from pathlib import Path

from hadpo.data import Report, read_text
from hadpo.records import BadInput, Evidence, Question

SPLIT = "val"
PROMPT = "Describe this image in detail."
_EXPECTED = "expected lines of an object's name and its synonyms, separated by commas"


def synonyms(path: Path, report: Report) -> dict[str, str]:
    """Word or words -> the object that they mean; a name means itself.

    Of a word that stands under two objects the last counts, as in the original; that is reported.

    Raises:
        BadInput: no such file, or nothing in it.
    """
    found: dict[str, str] = {}
    for line in read_text(path, expected=_EXPECTED).splitlines():
        said = [" ".join(word.lower().split()) for word in line.split(",")]
        said = [word for word in said if word]
        for word in said:
            if found.get(word, said[0]) != said[0]:
                report.left_out("words under two objects (the last counts)", source="chair")
            found[word] = said[0]
    if not found:
        raise BadInput(f"{path}: no words in it; {_EXPECTED}")
    return found


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
