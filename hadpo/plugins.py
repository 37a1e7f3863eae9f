"""One idiom for every seam: the module's name is the plugin's name."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from hadpo.records import BadInput


def available(package: str) -> list[str]:
    """Names of the plugins in `package`: its public modules, sorted."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))


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


def choices(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: nearest match first, then all choices."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"
