"""Are the image files what they should be? Each is opened once; findings are kept beside the runs.

A finding holds as long as the file's size and time of change do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hadpo.images import ORIENTATION, open_image, to_rgb
from hadpo.records import BadInput, append_jsonl, resume_jsonl


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an image file turned out to be."""

    problem: str  # "" if it can be used
    width: int = 0
    height: int = 0
    mode: str = ""  # as stored: RGB, L, CMYK, I;16, ...
    notes: tuple[str, ...] = ()  # what makes it unusual, and harmless


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A line of the file of findings: about a file of this size and time."""

    path: str
    size: int
    changed: int
    finding: Finding


class ImageChecks:
    """Findings on image files, kept in a file of JSON lines that survives a kill."""

    def __init__(self, path: Path | None) -> None:
        """Read the findings at `path`, or begin them, None: in memory.

        BadInput if that cannot be.
        """
        self._path = path
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            lines = resume_jsonl(path, _Checked) if path else []
        except (OSError, BadInput) as error:
            raise BadInput(f"{path}: cannot keep findings on images ({error}); move it") from error
        self._known = {(each.path, each.size, each.changed): each.finding for each in lines}

    def findings(self, paths: Iterable[str | Path]) -> dict[str, Finding]:
        """The finding on each file; those not known yet are opened and decoded."""
        found: dict[str, Finding] = {}
        for path in dict.fromkeys(map(str, paths)):
            try:
                status = Path(path).stat()
            except (OSError, ValueError):
                found[path] = Finding(problem="no such file")
                continue
            state = (path, status.st_size, status.st_mtime_ns)
            if state not in self._known:
                self._known[state] = finding = check(Path(path))
                line = _Checked(path=path, size=state[1], changed=state[2], finding=finding)
                list(append_jsonl(self._path, [line]) if self._path else ())
            found[path] = self._known[state]
        return found


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
