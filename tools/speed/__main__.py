"""`python -m tools.speed COMMAND`: every file of this package with a `command` is one."""

import ast
import importlib
import logging
import sys
import warnings
from pathlib import Path

import typer

from hadpo.records import BadInput

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The commands, found without importing anything."""
    return [
        path.stem
        for path in sorted(_HERE.glob("*.py"))
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "command"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    ]


def app() -> typer.Typer:
    """All commands as one Typer application."""
    found = typer.Typer(
        help="Measure speed and memory, of us and of the peers, on this machine.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @found.callback()
    def _room() -> None:  # so that one command alone would keep its name
        pass

    for name in names():
        module = importlib.import_module(f"tools.speed.{name}")
        found.command(name)(module.command)
    return found


def main() -> None:
    """Entry point: an error that a user can mend is one message and exit code 2."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    warnings.filterwarnings("ignore")  # the peers' own, about names that transformers changed
    try:
        app()()
    except BadInput as error:
        typer.echo(f"tools.speed: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
