"""Are the image files what they should be? Each is opened once; findings are kept beside the runs.

A finding holds as long as the file's size and time of change do.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hadpo.images import ORIENTATION, open_image, to_rgb
from hadpo.records import BadInput


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an image file turned out to be."""

    problem: str  # "" if it can be used
    width: int = 0
    height: int = 0
    mode: str = ""  # as stored: RGB, L, CMYK, I;16, ...
    notes: tuple[str, ...] = ()  # what makes it unusual, and harmless


class ImageChecks:
    """Findings on image files, from a database that survives a kill."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the database at `path`; None keeps it in memory.

        Raises:
            BadInput: the file is no database of findings, or cannot be written.
        """
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._data = sqlite3.connect(path or ":memory:", timeout=60)
            self._data.execute("PRAGMA journal_mode=WAL")
            self._data.execute("PRAGMA synchronous=NORMAL")  # what is committed survives a kill
            self._data.execute(
                "CREATE TABLE IF NOT EXISTS images (path TEXT PRIMARY KEY, size INTEGER, "
                "changed INTEGER, verdict TEXT)"
            )
            self._data.commit()
        except (OSError, sqlite3.Error) as error:
            raise BadInput(f"{path}: cannot keep findings on images ({error}); move it") from error

    def findings(self, paths: Iterable[str | Path]) -> dict[str, Finding]:
        """The finding on each file; those not known yet are opened and decoded."""
        findings: dict[str, Finding] = {}
        for each in map(str, paths):
            if each in findings:
                continue
            try:
                status = Path(each).stat()
            except (OSError, ValueError):
                findings[each] = Finding(problem="no such file")
                continue
            state = (each, status.st_size, status.st_mtime_ns)
            row = self._data.execute(
                "SELECT verdict FROM images WHERE path = ? AND size = ? AND changed = ?", state
            ).fetchone()
            if row:
                value = json.loads(row[0])
                findings[each] = Finding(**value | {"notes": tuple(value["notes"])})
                continue
            findings[each] = check(Path(each))
            content = json.dumps(findings[each].__dict__)
            self._data.execute(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", (*state, content)
            )
            self._data.commit()
        return findings


def check(path: Path) -> Finding:
    """Open and decode one file; what is unusual about it is noted.

    Images one pixel wide or high are problems; grey, CMYK and 16-bit ones, and those with a
    rotation in EXIF, are read as RGB, upright, by the backbones, and noted.
    """
    if path.stat().st_size == 0:
        return Finding(problem="the file is empty")
    try:
        with open_image(path) as image:
            mode, turned = image.mode, image.getexif().get(ORIENTATION, 1) != 1
            width, height = to_rgb(image).size
    except BadInput as error:
        return Finding(problem=str(error).removeprefix(f"{path}: "))
    notes = [f"stored as {mode}"] if mode != "RGB" else []
    notes += ["rotated by EXIF"] if turned else []
    problem = f"{width} x {height} pixels" if min(width, height) < 2 else ""
    return Finding(problem=problem, width=width, height=height, mode=mode, notes=tuple(notes))
