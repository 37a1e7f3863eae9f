"""What the entry point of pyproject.toml names, so that plain papermill imports our translator.

Nothing of papermill is imported here before papermill asks for `Engine`: it asks while it is itself
being imported, also if that was begun by `translator`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "Engine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from papermill.engines import NBClientEngine

    from hadpo.runs import translator  # noqa: F401  # it registers itself

    return NBClientEngine
