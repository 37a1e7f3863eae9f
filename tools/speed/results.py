"""Where measurements are written: a folder of the runs, unless they are to be published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hadpo import config
from hadpo.records import BadInput, write_text

PUBLISHED = config.ROOT / "papers_results" / "speed"
Folder = Annotated[Path | None, typer.Option(help="for what is written; default: runs/speed")]
Publish = Annotated[bool, typer.Option("--publish", help="write to papers_results/speed")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="write the figures here, too")]


def folder_for(folder: Path | None = None, *, publish: bool = False) -> Path:
    """`folder`, or `runs/speed`; `papers_results/speed` only if the numbers are to be published.

    Raises:
        BadInput: both are asked for.
    """
    if publish and folder is not None:
        raise BadInput(f"--publish writes to {PUBLISHED}; give it or a folder, not both")
    return PUBLISHED if publish else folder or config.runs_folder() / "speed"


def save_json(value: Any, path: Path | None) -> None:
    """Write `value`, if there is a path; the folder is made."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(value, indent=1) + "\n")
