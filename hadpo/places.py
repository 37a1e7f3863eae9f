"""Where things lie, and how a file says it: paths with variables, so that a run can be moved.

In a file of a run, a path below the run begins with `${RUN}`, one below a folder of data or models
with that folder's variable. Readers of records and manifests fill them in, writers put them in.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).parent
# The checkout that the package runs from; where it is installed without one, the working directory.
ROOT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else Path.cwd()
_STAGE = "manifest.json"  # marks the folder of a stage
_LEVELS = 4  # above a file, on which its stage is looked for


def variables() -> dict[str, str]:
    """Variable -> the folder that it stands for on this machine."""
    return {
        "HADPO_SHARED": os.environ.get("HADPO_SHARED", str(ROOT.parent / "shared")),
        "HADPO_DATA": os.environ.get("HADPO_DATA", str(ROOT / "data")),
        "HADPO_MODELS": os.environ.get("HADPO_MODELS", str(ROOT / "models")),
        "PACKAGE": str(PACKAGE),
    }


def variables_of(path: Path) -> dict[str, str]:
    """`variables` with RUN, the folder of the run that a file lies in, if it lies in one."""
    for stage in list(path.parents)[:_LEVELS]:
        if (stage / _STAGE).is_file():
            return {"RUN": str(stage.parent)} | variables()
    return variables()


def shorten(text: str, known: dict[str, str]) -> str:
    """A path with the variable that it begins with; the text as it is if it begins with none."""
    for name, folder in known.items():
        if folder and text.startswith(f"{folder}{os.sep}"):
            return "${" + name + "}" + text[len(folder) :]
    return text


def fill(text: str, known: dict[str, str]) -> str:
    """The path with its variables filled in; a variable that is not known stays."""
    for name, folder in known.items():
        text = text.replace("${" + name + "}", folder)
    return text
