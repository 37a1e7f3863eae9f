"""Fields of published config files: known and neutral, known and honoured, or an error.

Which they are is data, in `fields.yaml`: field -> the kind of value that is read, the only values
that the code implements, or the reason why it cannot matter. A field that no table has passes only
if its value is the installed library's own default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import transformers
import yaml
from transformers.activations import ACT2FN

from hadpo.records import BadInput
from hadpo.vlm import checkpoint

_MOST = 2**24  # of any size; more is no model of today
_LONG = 60  # characters of a value that a message shows
_ROPES = ("default", "linear", "dynamic", "yarn", "llama3")
_ROPE_NUMBERS = (
    *("rope_theta", "factor", "original_max_position_embeddings", "attention_factor"),
    *("beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"),
)


@dataclass(frozen=True)
class Kind:
    """What a value must be, and how to tell."""

    meaning: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int, most: int) -> Kind:
    return Kind(
        f"a whole number from {least} to {most}", lambda v: type(v) is int and least <= v <= most
    )


def is_among(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether a value is one of `values`; True and 1 are two things, 0 and 0.0 are one."""
    return (isinstance(value, bool), value) in [(isinstance(v, bool), v) for v in values]


def _is_rope(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    numbers = {key: n for key, n in value.items() if key not in ("rope_type", "type")}
    kind = value.get("rope_type", value.get("type", "default"))
    return kind in _ROPES and all(
        key in _ROPE_NUMBERS and NUMBER.holds(n) for key, n in numbers.items()
    )


def _is_names(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return all(isinstance(name, str) for name in names)


def _is_layers(value: Any) -> bool:
    return all(type(n) is int and n >= 0 for n in (value if isinstance(value, list) else [value]))


def _by_name(kind: Kind) -> Kind:
    return Kind(
        f"an object of {kind.meaning} by name",
        lambda v: isinstance(v, dict) and all(map(kind.holds, v.values())),
    )


def _is_sides(value: Any) -> bool:
    if not isinstance(value, dict):
        return SIZE.holds(value)
    sides = ("height", "width", "shortest_edge")
    return bool(value) and all(key in sides and SIZE.holds(n) for key, n in value.items())


ANYTHING = Kind("anything", lambda value: True)
SIZE = _whole(1, _MOST)
NUMBER = Kind("a number above 0", lambda v: _is_number(v) and 0 < v < _MOST)
COLOUR = Kind(  # of pixels from 0 to 1
    "a list of three numbers from 0 to 1",
    lambda v: isinstance(v, list) and len(v) == 3 and all(_is_number(n) and 0 <= n <= 1 for n in v),
)
KINDS = {  # as `fields.yaml` names them
    "size": SIZE,
    "layers": _whole(1, 1000),
    "index": _whole(-1000, 1000),
    "number": NUMBER,
    "share": Kind("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1),
    "text": Kind("a text", lambda value: isinstance(value, str)),
    "names": Kind("a text or a list of texts", _is_names),
    "layer numbers": Kind("a layer or a list of layers", _is_layers),
    "sizes by name": _by_name(SIZE),
    "numbers by name": _by_name(NUMBER),
    "flag": Kind("true or false", lambda value: isinstance(value, bool)),
    "object": Kind("an object", lambda value: isinstance(value, dict)),
    "activation": Kind("an activation of transformers", lambda v: v in list(ACT2FN)),
    "colour": COLOUR,
    "spread": Kind(
        "a list of three numbers from 0.001 to 1",
        lambda v: COLOUR.holds(v) and all(n >= 0.001 for n in v),
    ),
    "1/255": Kind("1/255", lambda v: _is_number(v) and abs(v * 255 - 1) < 1e-6),
    "sides": Kind("a size, or an object with height and width, or shortest_edge", _is_sides),
    "rope": Kind(
        f"null, or an object with rope_type (one of {', '.join(_ROPES)}) and numbers above 0 "
        f"({', '.join(_ROPE_NUMBERS)})",
        _is_rope,
    ),
}


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.meaning} or None", lambda v: v is None or kind.holds(v))


@cache
def _tables() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@cache
def table(name: str) -> dict[str, Any]:
    """Field -> `Kind`, tuple of values, or name of a table, as `fields.yaml` has them."""
    section = dict(_tables()[name])
    base = section.pop("like", "shared")
    rules = dict(table(base)) if name not in ("shared", "nothing") else {}
    for other in ("defaults", "needed"):
        section.pop(other, None)
    rules |= {field: tuple(values) for field, values in section.pop("only", {}).items()}
    rules |= section.pop("within", {})
    for words in section.pop("reasons", {}).values():
        rules |= dict.fromkeys(words.split(), ANYTHING)
    for kind, words in section.items():
        plain = KINDS[kind.removesuffix(" or null")]
        rules |= dict.fromkeys(words.split(), plain if kind in KINDS else _or_null(plain))
    return rules


@cache
def _defaults(name: str) -> dict[str, Any]:
    """What the installed class of transformers says where a file says nothing."""
    kind = _tables()[name].get("defaults")
    return getattr(transformers, kind)().to_dict() if kind else {}


def check(
    config: Mapping[str, Any],
    known: str | Mapping[str, Any],
    *,
    where: str | Path,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a config with a field that is not known, or a value that is not implemented.

    `known` is a table, or the name of one in `fields.yaml`; `defaults` are those of the library
    that wrote the file, None: of the table's class of transformers.

    Raises:
        BadInput: names file, field, what was found and what was expected, of all problems.
    """
    rules = table(known) if isinstance(known, str) else known
    if defaults is None:
        defaults = _defaults(known) if isinstance(known, str) else {}
    needed = _tables()[known].get("needed", "") if isinstance(known, str) else ""
    problems = _missing(config, needed) or [*_problems(config, rules, "", defaults)]
    if problems:
        raise BadInput(f"{where}: {'; '.join(problems)}")


def _missing(config: Mapping[str, Any], needed: str) -> list[str]:
    lost = [field for field in needed.split() if field not in config]
    return [f"no {', '.join(lost)}"] if lost else []


def _problems(
    config: Mapping[str, Any], rules: Mapping[str, Any], path: str, defaults: Mapping[str, Any]
) -> Iterator[str]:
    for field, value in config.items():
        rule = rules.get(field)
        if rule is None:
            if field not in defaults or not is_among(value, (defaults[field],)):
                yield f"{path}{field}: found {shown(value)}, a field that no file of this kind has"
        elif isinstance(rule, str):
            if isinstance(value, Mapping):
                lost = _missing(value, _tables()[rule].get("needed", ""))
                yield from [f"{path}{field}: {one}" for one in lost]
                yield from _problems(value, table(rule), f"{path}{field}.", _defaults(rule))
            else:
                yield f"{path}{field}: found {shown(value)}, expected an object"
        elif isinstance(rule, tuple):
            if not is_among(value, rule):
                expected = " or ".join(repr(one) for one in rule)
                yield f"{path}{field}: found {shown(value)}, expected {expected}"
        elif not rule.holds(value):
            yield f"{path}{field}: found {shown(value)}, expected {rule.meaning}"


def shown(value: Any) -> str:
    """A value as a message has it."""
    text = repr(value)
    return text if len(text) <= _LONG else text[:_LONG] + "..."


def clip_section(config: Mapping[str, Any], *, where: str | Path) -> dict[str, Any]:
    """The tower's fields of a checked CLIP config; an older copy of them must say the same."""
    vision = config.get("vision_config", config)
    older = config.get("vision_config_dict") or {}
    check(older, "clip_tower", where=f"{where}: vision_config_dict")
    for field in table("clip_tower"):
        if field in older and field in vision and older[field] != vision[field]:
            raise BadInput(
                f"{where}: vision_config_dict.{field}: found {shown(older[field])}, but "
                f"vision_config says {shown(vision[field])}; which of them is meant?"
            )
    return {**older, **vision}


def overridden(folder: Path) -> dict[str, Any]:
    """Fields of `generation_config.json` that the kit's own decoding overrides; {} without one.

    Raises:
        BadInput: a field that is no setting of generation.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    values = checkpoint.read_json(path)
    own = transformers.GenerationConfig().to_dict()
    check(values, dict.fromkeys(own, ANYTHING) | table("shared"), where=path)
    silent = {"transformers_version", "_from_model_config"}
    return {key: value for key, value in values.items() if value is not None and key not in silent}
