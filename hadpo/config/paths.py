"""Where things lie: the package, its checkout, the runs, and the variables of a recipe's paths."""

import os
import re
from pathlib import Path

from hadpo.places import PACKAGE, ROOT, fill, variables
from hadpo.records import BadInput

RECIPES = PACKAGE / "recipes"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name, in the place of a folder


def runs_folder() -> Path:
    """Where runs lie: `HADPO_RUNS`, or `runs` of the checkout."""
    return Path(os.environ.get("HADPO_RUNS", str(ROOT / "runs")))


def resolve_path(text: str, *, run_folder: Path | None = None) -> Path:
    """A path from a recipe, with its variables filled in.

    `${HADPO_SHARED}`, `${HADPO_DATA}` and `${HADPO_MODELS}` default to `../shared`, `data` and
    `models` of the checkout; `${PACKAGE}` is this package, `${WORLD}` the run's synthetic world.
    """
    known = variables() | {"WORLD": str(run_folder / "world") if run_folder else ""}
    text = fill(text, known)
    if "${" in text:
        raise BadInput(f"path {text!r} uses an unknown variable; known: {', '.join(known)}")
    return Path(text).expanduser()
