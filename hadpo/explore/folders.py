"""Where the stages of a run lie that explorers look into."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hadpo import config
from hadpo.plugins import choices
from hadpo.records import BadInput, Question, read_jsonl
from hadpo.runs import Run, read_manifest, stage_folder


@dataclass(frozen=True)
class Folders:
    """The finished evaluation of a run, and the preparation that it read."""

    name: str
    evaluated: Path
    prepared: Path
    is_mini: bool

    def questions(self, benchmark: str) -> Iterator[Question]:
        """The questions of one benchmark."""
        every = read_jsonl(self.prepared / "questions.jsonl", Question)
        return (question for question in every if question.benchmark == benchmark)


def folders_of(run: Run | str) -> Folders:
    """The folders of a run, named or open.

    Raises:
        BadInput: no such run, or it was not evaluated.
    """
    name = run if isinstance(run, str) else run.name
    root = config.runs_folder() if isinstance(run, str) else run.root
    evaluated = root / name / "evaluate"
    manifest = read_manifest(evaluated)
    if manifest is None or not (evaluated / "samples.jsonl").is_file():
        known = [path.parents[1].name for path in root.glob("*/evaluate/samples.jsonl")]
        raise BadInput(f"no answers of a run {name!r} in {root}; {choices(name, known)}")
    prepared = stage_folder(root, name, "prepare", manifest.earlier)
    return Folders(name, evaluated, prepared, manifest.is_mini)
