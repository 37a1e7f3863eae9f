"""The files that a stage wrote, as a list for a person."""

import html
from pathlib import Path

_BOOKKEEPING = {"notebook.ipynb", "report.html", "manifest.json", "manifest.json.part"}


class Outputs:
    """Files and folders of a stage, with their sizes; shows itself as a table in a notebook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes = {
            path.name + "/" * path.is_dir(): _size(path)
            for path in sorted(folder.iterdir())
            if path.name not in _BOOKKEEPING
        }

    def __repr__(self) -> str:
        lines = [f"  {name:24} {_readable(size):>10}" for name, size in self.sizes.items()]
        return "\n".join([str(self.folder), *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{_readable(size)}</td></tr>"
            for name, size in self.sizes.items()
        )
        return f"<p>{html.escape(str(self.folder))}</p><table>{rows}</table>"


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
