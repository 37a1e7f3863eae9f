"""Settings: what the sections and the benchmarks declare, and recipes in YAML that set them."""

import ast
import dataclasses
import functools
import inspect
import io
import re
import tokenize
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin

import pydantic
import yaml
from pydantic.dataclasses import dataclass

from hadpo import plugins
from hadpo.config.paths import RECIPES
from hadpo.config.sections import SECTIONS, STRICT, ModelConfig, Recipe, When, names, vanishes
from hadpo.plugins import choices
from hadpo.records import BadInput

_OWN_TYPES: dict[str, Any] = {"model": ModelConfig} | {
    f.name: f.default_factory for f in dataclasses.fields(Recipe) if callable(f.default_factory)
}
Given = typing.ParamSpec("Given")
Made = typing.TypeVar("Made")
_BENCHMARKS = "hadpo.benchmarks"
_LONGEST_NAME = 200  # characters of a recipe's name or path
_MOST_PARENTS = 20  # that a recipe extends, one the other
_DEEPEST = 20  # levels of lists and mappings in a recipe
_MOST_VALUES = 10_000
_DIGITS = 20
_YAML_1_1 = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?)")  # octal, base 60
_SHOWN = 200  # characters of a value in a message
_ADDED_BY = {"evaluate": "Settings", "data": "Data"}  # section -> class of a benchmark's module


def _cache(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """The function, called once for each argument and each set of benchmarks that is installed."""
    kept: Any = functools.cache(lambda _, *given: make(*given))  # pyright: ignore[reportCallIssue]

    @functools.wraps(make)
    def cached(*given: Given.args, **named: Given.kwargs) -> Made:
        return kept(tuple(plugins.available(_BENCHMARKS)), *given, **named)

    return cached


@_cache
def section_types() -> dict[str, type]:
    """The dataclass of each section, with the settings that the benchmarks add to it.

    Raises:
        BadInput: two of them declare a setting of the same name.
    """
    types = dict(_OWN_TYPES)
    owners = {f.name: name for name, kind in types.items() for f in dataclasses.fields(kind)}
    for section, added in _ADDED_BY.items():
        bases = [types[section]]
        for name in plugins.available(_BENCHMARKS):
            kind = getattr(plugins.load(_BENCHMARKS, name), added, None)
            for f in dataclasses.fields(kind) if kind else ():
                if owners.setdefault(f.name, f"{_BENCHMARKS}.{name}") != f"{_BENCHMARKS}.{name}":
                    raise BadInput(
                        f"benchmark {name}: its setting {f.name!r} is declared by {owners[f.name]} "
                        f"already; begin it with {name}_"
                    )
            bases += [kind] if kind else []
        # A dataclass takes its fields from the last base first.
        whole = type(types[section].__name__, tuple(reversed(bases)), {})
        types[section] = dataclass(frozen=True, kw_only=True, config=STRICT)(whole)
    return types


@_cache
def recipe_type() -> type[Recipe]:
    """`Recipe` with the sections of `section_types`."""
    kinds = {section: section_types()[section] for section in _ADDED_BY}
    body: dict[str, Any] = {section: field(default_factory=kind) for section, kind in kinds.items()}
    whole = type("Recipe", (Recipe,), {"__annotations__": kinds} | body)
    made: Any = dataclass(frozen=True, kw_only=True, config=STRICT)(whole)
    return made


@dataclasses.dataclass(frozen=True)
class Setting:
    """One scalar setting of a stage, as its section declares it."""

    name: str
    section: str
    kind: Any  # int, float, bool, str, or a Literal
    default: Any  # None: a recipe must say it
    help: str  # the field's comment
    when: tuple[When, ...]  # what must hold for it to be read

    @property
    def type(self) -> str:
        """Its type for a reader: "float", or the values to choose from."""
        chosen = get_args(self.kind)
        return " | ".join(map(str, chosen)) if chosen else self.kind.__name__


@_cache
def settings(stage: str) -> dict[str, Setting]:
    """The scalar settings that a stage reads: the parameters of its notebook, by name."""
    known = {}
    for section in SECTIONS[stage]:
        whole = section_types()[section]
        hints = typing.get_type_hints(whole, include_extras=True)
        comments = {key: text for kind in whole.__mro__ for key, text in _comments(kind).items()}
        for f in dataclasses.fields(whole):
            hint = hints[f.name]
            kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            if get_origin(kind) is dict:
                continue
            owner = next(k for k in whole.__mro__ if f.name in vars(k).get("__annotations__", {}))
            when = tuple(extra for extra in extras if isinstance(extra, When))
            if section == "evaluate" and owner.__module__.startswith(f"{_BENCHMARKS}."):
                when += (_asked(owner.__module__.rpartition(".")[2], f.name),)
            default = None if f.default is dataclasses.MISSING else f.default
            help_text = comments.get(f.name, "")
            known[f.name] = Setting(f.name, section, kind, default, help_text, when)
    return known


def _asked(benchmark: str, setting: str) -> When:
    """A benchmark's own setting is read if it is run, and how to answer, if it asks itself.

    What is no matter of answering is read by a benchmark of the same questions, too.
    """
    readers, other = [benchmark], ""
    if setting.removeprefix(f"{benchmark}_") in ("beams", "max_new_tokens", "responses"):
        other = _same_questions(benchmark)
    else:
        every = plugins.available(_BENCHMARKS)
        readers += [name for name in every if _same_questions(name) == benchmark]

    def holds(listed: str) -> bool:
        run = set(names(listed))
        return other not in run and not run.isdisjoint(readers)

    cure = f"benchmark_names with {' or '.join(readers)}"
    instead = f" and not {other}, whose answers it reads" if other else ""
    return When("evaluate", "benchmark_names", holds, cure + instead)


def _same_questions(benchmark: str) -> str:
    return getattr(plugins.load(_BENCHMARKS, benchmark), "SAME_QUESTIONS_AS", "")


def _comments(kind: type) -> dict[str, str]:
    """Field of a dataclass -> its comment: the lines right above it, and the one behind it."""
    try:
        source = inspect.cleandoc("\n" + inspect.getsource(kind))
    except (OSError, TypeError):  # made by `_section_types`, or built in
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT}
    lines = source.splitlines()
    comments = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in said and lines[first - 2].strip().startswith("#"):
                first -= 1
            own = range(first, (node.end_lineno or node.lineno) + 1)
            comments[node.target.id] = " ".join(said[n].string[2:] for n in own if n in said)
    return comments


def load_recipe(
    name: str, overrides: Mapping[str, Any] | None = None, *, stage: str = ""
) -> Recipe:
    """The recipe `name` (a path below `recipes/`, or a path to a user's own YAML), checked.

    Args:
        name: for example "mini/llava", or "my/recipe.yaml".
        overrides: setting -> value; values of None are left to the recipe.
        stage: accept overrides of this stage only; "" accepts those of any stage.

    Raises:
        BadInput: no such recipe, an unknown, misspelt or mistyped setting or one out of range, or
            an override that cannot matter.
    """
    values = _read(name, seen=())
    known: dict[str, Setting] = {}
    for each in (stage,) if stage else SECTIONS:
        known |= settings(each)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    for key, value in given.items():
        if key not in known:
            place = f"stage {stage}" if stage else "any stage"
            raise BadInput(f"unknown parameter {key!r} for {place}; {choices(key, known)}")
        values.setdefault(known[key].section, {})[key] = value
    recipe = _check(recipe_type(), {"name": name} | values, where=f"recipe {name}")
    _refuse_without_effect(recipe, [known[key] for key in given])
    return recipe


def _refuse_without_effect(recipe: Recipe, given: Iterable[Setting]) -> None:
    """Refuse given parameters that nothing would read; what a recipe itself says may lie unused."""
    problems = []
    for name, when in [(setting.name, when) for setting in given for when in setting.when]:
        value = getattr(getattr(recipe, when.section), when.name)
        if not when.holds(value):
            problems.append(
                f"recipe {recipe.name}: parameter {name!r} has no effect while {when.name} "
                f"is {value!r}; leave it out, or set {when.cure} too"
            )
    if problems:
        raise BadInput("\n".join(problems))


def recipe_names() -> list[str]:
    """Names of the recipes that the package brings.

    Parts that start with _ are bases to extend; `accelerate/` holds settings of accelerate.
    """
    paths = (p.relative_to(RECIPES).with_suffix("") for p in RECIPES.rglob("*.yaml"))
    recipes = (p for p in paths if p.parts[0] != "accelerate")
    return sorted(p.as_posix() for p in recipes if not any(x.startswith("_") for x in p.parts))


def as_dict(recipe: Any) -> dict[str, Any]:
    """Plain nested values, for a manifest."""
    return dataclasses.asdict(recipe)


def _read(name: str, *, seen: tuple[str, ...]) -> dict[str, Any]:
    """Values of a recipe file, laid over those it extends."""
    if name in seen:
        raise BadInput(f"recipe {name} extends itself: {' -> '.join([*seen, name])}")
    path = RECIPES / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    if len(name) > _LONGEST_NAME or not path.is_file():
        shown = name[:_LONGEST_NAME]
        raise BadInput(
            f"no recipe {shown!r} (there is no such file); {choices(shown, recipe_names())}"
        )
    values = _read_yaml(path)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected settings by name, found {type(values).__name__}")
    for key in values:
        if not isinstance(key, str):
            raise BadInput(f"{path}: {str(key)[:_SHOWN]}: expected settings by name, found no name")
    # `train:` with nothing below it sets nothing.
    sections = section_types()
    values = {k: v for k, v in values.items() if v is not None or k not in sections}
    for key in sections.keys() & values.keys():
        if not isinstance(values[key], dict):
            found = str(values[key])[:_SHOWN]
            raise BadInput(f"{path}: {key}: expected settings by name, found {found!r}")
    if "name" in values:
        raise BadInput(f"{path}: name: a recipe is called as its file is; leave it out")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise BadInput(
            f"{path}: extends: expected the name of one recipe, found {str(parent)[:_SHOWN]!r}"
        )
    if len(seen) >= _MOST_PARENTS:
        raise BadInput(f"{path}: extends: {' -> '.join([*seen, name, parent])} is too long a chain")
    return _lay_over(_read(parent, seen=(*seen, name)), values)


def _read_yaml(path: Path) -> Any:
    try:
        return _Loader(path.read_text(encoding="utf-8"), path).get_single_data()
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML: {error}") from error
    except BadInput:
        raise
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError, OverflowError, RecursionError) as error:  # dates that are none
        raise BadInput(f"{path}: cannot be read ({error})") from error


class _Loader(yaml.SafeLoader):
    """YAML without what nobody writes on purpose: a key twice, depth, aliases that multiply."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self._path = path
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}  # values in a node, its aliases written out

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; refuses one that is too deep, too large, or stands in itself."""
        event = self.peek_event()
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse("lists and mappings are nested too deeply", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None or (isinstance(event, yaml.AliasEvent) and node in self._sizes):
            return node
        if isinstance(event, yaml.AliasEvent):
            self._refuse("an alias of the value that it stands in", event)
        if isinstance(node, yaml.ScalarNode) and re.search("[\ud800-\udfff]", node.value):
            self._refuse("half of a character (a surrogate), which no file can hold", event)
        if node.tag.endswith(":int") and len(node.value) > _DIGITS:
            self._refuse(f"a number of {len(node.value)} digits, expected at most {_DIGITS}", event)
        is_number = node.tag.endswith((":int", ":float"))
        if is_number and (_YAML_1_1.fullmatch(node.value) or vanishes(node.value)):
            read = self.construct_object(node)
            self._refuse(f"{node.value} would be read as {read}; write that, or quote it", event)
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = (each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
        self._sizes[node] = 1 + sum(self._sizes[each] for each in inner)
        if self._sizes[node] > _MOST_VALUES:
            self._refuse(f"more than {_MOST_VALUES:,} values, its aliases written out", event)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are all different."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse("expected a name before the colon, found a list or a mapping", key)
            if key.value in seen:
                self._refuse(f"the key {key.value[:_LONGEST_NAME]!r} stands twice", key)
            seen.add(key.value)
        return node

    def _refuse(self, problem: str, place: Any) -> NoReturn:
        raise BadInput(f"{self._path}:{place.start_mark.line + 1}: {problem}")


def _lay_over(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = all(isinstance(each, Mapping) for each in (value, merged.get(key)))
        merged[key] = _lay_over(merged[key], value) if both and key != "files" else value
    return merged


def _check(kind: type, values: Mapping[str, Any], *, where: str) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        raise BadInput("\n".join(_explain(e, where) for e in error.errors())) from error


def _explain(error: Any, where: str) -> str:
    *section, name = [str(part) for part in error["loc"]] or [""]
    place = f"{where}: {'.'.join([*section, name])}"
    if error["type"] == "unexpected_keyword_argument":
        kind = section_types()[section[0]] if section else Recipe
        known = [f.name for f in dataclasses.fields(kind)] + ["extends"] * (not section)
        return f"{place}: unknown setting; {choices(name, known)}"
    reason = error["msg"].removeprefix("Value error, ")
    return f"{place}: {reason} (found {repr(error['input'])[:_SHOWN]})"
