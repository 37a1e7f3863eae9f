"""Parameters of a notebook: which of its names are meant, all of them known and of their type.

The parameter cell names only what people turn most; every setting of the stage counts, whether the
cell, papermill or a person's own cell sets it.
"""

import difflib
import html
import logging
import re
import types
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hadpo import config
from hadpo.plugins import choices
from hadpo.records import BadInput

RUN_PARAMETERS = {  # what every stage's notebook takes beside its settings
    "recipe": "a recipe's name (hadpo/recipes), or the path of your own YAML",
    "run": "name of the run; empty: the recipe's path with - for /",
    "from_run": "run whose earlier stages are read; empty: this one",
}
# IPython's names, not the user's.
_NOTEBOOK_OWN = {"In", "Out", "exit", "quit", "open", "get_ipython"}
_NO_SETTING = (types.ModuleType, types.FunctionType, type)
log = logging.getLogger(__name__)

_LITERAL = (str, int, float, bool, list, tuple, dict)
_first_names: dict[str, set[str]] = {}  # stage -> user's names at the first start in this process


def check_names(known: Collection[str], namespace: Mapping[str, Any]) -> None:
    """Check a notebook that is no stage: it takes the parameters `known` and no others.

    Raises:
        BadInput: an unknown or misspelt parameter.
    """
    _given("this notebook", set(known), namespace)


def read_overrides(texts: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as a dictionary; the types of the settings convert the values.

    Of a key that is given twice the last value counts, as scripts that append their own expect; a
    warning says so.

    Raises:
        BadInput: a text is of another form.
    """
    overrides = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInput(f"-p {text!r}: expected KEY=VALUE")
        if re.search("[\ud800-\udfff]", text):
            raise BadInput(f"-p {text!r}: not UTF-8")
        if key.strip() in overrides:
            log.warning("-p %s is given twice; the last one counts: %s", key.strip(), value.strip())
        overrides[key.strip()] = value.strip()
    return overrides


def from_notebook(stage: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters among a notebook's names, every one known.

    Plain papermill only warns about a parameter that a notebook does not have; here it is an error.

    Raises:
        BadInput: an unknown or misspelt name, or a YAML slip that made a value an annotation.
    """
    return _given(f"stage {stage}", {*RUN_PARAMETERS, *config.settings(stage)}, namespace)


def _given(place: str, known: set[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name for name, value in namespace.items() if not isinstance(value, _NO_SETTING)}
    names = {name for name in plain - _NOTEBOOK_OWN if not name.startswith("_")}
    # Cells below the setup make names of their own. So what stood there at the first start must be
    # known, and later a plain value must not have almost the name of a setting.
    first = _first_names.setdefault(place, names)
    late = {n for n in names - first - known if isinstance(namespace[n], _LITERAL)}
    wrong = (names & first) - known
    wrong |= {n for n in late if difflib.get_close_matches(n, known, n=1, cutoff=0.8)}
    for name in sorted(wrong):
        raise BadInput(f"unknown parameter {name!r} for {place}; {choices(name, known)}")
    for name, annotation in namespace.get("__annotations__", {}).items():
        if not isinstance(annotation, type):  # `-y "{lr:1e-6}"` arrives as `lr: 1e-06 = None`
            raise BadInput(
                f"parameter {name!r}: found {name}:{annotation}, expected '{name}: value'"
            )
    return {name: namespace[name] for name in names & known}


def effective(
    settings: Mapping[str, Mapping[str, Any]],
    stage: str,
    given: Mapping[str, Any],
    recipe: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """The settings that a reader of a stage's report needs; all others are at their defaults.

    Those that were given beside the recipe, then `config.MAIN`, then what the recipe sets. Settings
    that nothing reads under the others are left out.

    Args:
        settings: section -> setting -> value, as a manifest keeps them.
        stage: whose settings.
        given: the settings given beside the recipe.
        recipe: the recipe's own values; None: they are not known any more.

    Returns:
        A row per setting: its name, value, the recipe's own value, whether it `differs` from that
        (or was given, if the recipe's is not known), and what it means.
    """
    main, rows = config.MAIN.get(stage, ()), []
    for setting in config.settings(stage).values() if settings else ():
        own = settings.get(setting.section, {})
        kept = [(when, settings.get(when.section, {})) for when in setting.when]
        if setting.name not in own or any(
            when.name in other and not when.holds(other[when.name]) for when, other in kept
        ):
            continue
        name, value = setting.name, own[setting.name]
        if name in main or name in given or value != setting.default:
            before = value if recipe is None else recipe[setting.section][name]
            differs = value != before if recipe is not None else name in given
            row = {"setting": name, "value": value, "recipe": before, "differs": differs}
            rows.append(row | {"help": setting.help})
    return sorted(rows, key=lambda row: (not row["differs"], row["setting"] not in main))


def settings_table(rows: list[dict[str, Any]], stage: str) -> str:
    """HTML of `effective`; what differs from the recipe is bold."""
    lines = []
    for row in rows:
        name, value, recipe = (html.escape(str(row[key])) for key in ("setting", "value", "recipe"))
        value = f"<b>{value}</b> (recipe: {recipe or 'empty'})" if row["differs"] else value
        lines.append(f"<tr><td>{name}</td><td>{value}</td><td>{html.escape(row['help'])}</td></tr>")
    return (
        '<table class="wrapped"><thead><tr><th>setting</th><th>value</th><th>what it is</th></tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table><p><small>Bold: given beside the recipe. "
        f"All other settings have their defaults: hadpo settings {stage}</small></p>"
    )
