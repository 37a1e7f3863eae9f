"""Where things lie: the package, its checkout, the runs, and the variables of a recipe's paths."""

import os
from pathlib import Path

from hadpo.records import BadInput

PACKAGE = Path(__file__).parents[1]
# The checkout that the package runs from; where it is installed without one, the working directory.
ROOT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else Path.cwd()
RECIPES = PACKAGE / "recipes"


def runs_folder() -> Path:
    """Where runs lie: `HADPO_RUNS`, or `runs` of the checkout."""
    return Path(os.environ.get("HADPO_RUNS", str(ROOT / "runs")))


def resolve_path(text: str, *, run_folder: Path | None = None) -> Path:
    """A path from a recipe, with its variables filled in.

    `${HADPO_SHARED}`, `${HADPO_DATA}` and `${HADPO_MODELS}` default to `../shared`, `data` and
    `models` of the checkout; `${PACKAGE}` is this package, `${WORLD}` the run's synthetic world.
    """
    known = {
        "HADPO_SHARED": os.environ.get("HADPO_SHARED", str(ROOT.parent / "shared")),
        "HADPO_DATA": os.environ.get("HADPO_DATA", str(ROOT / "data")),
        "HADPO_MODELS": os.environ.get("HADPO_MODELS", str(ROOT / "models")),
        "PACKAGE": str(PACKAGE),
        "WORLD": str(run_folder / "world") if run_folder else "",
    }
    for key, value in known.items():
        text = text.replace("${" + key + "}", value)
    if "${" in text:
        raise BadInput(f"path {text!r} uses an unknown variable; known: {', '.join(known)}")
    return Path(text).expanduser()
