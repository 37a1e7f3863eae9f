"""One idiom for every seam: the module's name is the plugin's name.

`HADPO_PLUGINS` names a folder of one's own plugins (several: separated as in PATH): its files
`benchmarks/x.py` and `backbones/y.py` are then found as if they stood in this package.
"""

import difflib
import importlib
import os
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from hadpo.records import BadInput

_MANY = 40  # names that a message still lists
_added: dict[str, list[str]] = {}  # package -> folders of HADPO_PLUGINS on its path


def available(package: str) -> list[str]:
    """Names of the plugins in `package`: its public modules, sorted.

    Raises:
        BadInput: `HADPO_PLUGINS` names no folder, or a file in it has the name of another plugin.
    """
    modules = [m.name for place in _search_path(package) for m in pkgutil.iter_modules([place])]
    names = sorted(name for name in modules if not name.startswith("_"))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(
            f"two modules of {package} are named {', '.join(twice)}; rename the file in one of the "
            f"folders {', '.join(_search_path(package))}"
        )
    return names


def load(package: str, name: str) -> ModuleType:
    """Import plugin `name` of `package`.

    Raises:
        BadInput: no such plugin; the message lists the choices and the nearest match.
    """
    names = available(package)
    if name not in names:
        kind = package.rpartition(".")[2]
        raise BadInput(f"no {kind} module named {name!r}; {choices(name, names)}")
    return importlib.import_module(f"{package}.{name}")


def _search_path(package: str) -> list[str]:
    """The package's path, with the folders that `HADPO_PLUGINS` names now."""
    path = importlib.import_module(package).__path__
    wanted = []
    for place in filter(None, os.environ.get("HADPO_PLUGINS", "").split(os.pathsep)):
        if not Path(place).is_dir():
            raise BadInput(f"HADPO_PLUGINS: {place} is no folder; expected one of plugins")
        wanted.append(str(Path(place).resolve() / package.rpartition(".")[2]))
    if wanted != _added.get(package, []):
        path[:] = [p for p in path if p not in _added.get(package, [])] + wanted
        _added[package] = wanted
        importlib.invalidate_caches()
    return list(path)


def choices(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: nearest match first, then all choices.

    If there are very many, the three nearest stand for them all.
    """
    names = sorted(known)
    if len(names) > _MANY:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
        return f"did you mean {', '.join(map(repr, close))}? {len(names)} are known"
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"
