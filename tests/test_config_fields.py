"""No setting is silently ignored: the library reads every field of every config dataclass.

A read is `settings.beta` (also of a name that is annotated with a config class, or that was
assigned from one), or `getattr(settings, "beta")`, also with a name made as in f"{name}_beams", or
`ChatSettings.of_section(settings, "judge_")`, which reads a setting for each of its own fields.
Printing a manifest's value does not count: that honours nothing.
"""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hadpo import config
from hadpo.chat import ChatSettings

PACKAGE = Path(__file__).parents[1] / "hadpo"
CLASSES = (*config.section_types().values(), config.Recipe)
CLASS_NAMES = {kind.__name__ for kind in CLASSES}
CHAT_FIELDS = {field.name for field in dataclasses.fields(ChatSettings)} | {"format"}
RECEIVERS = {"settings", "recipe", *config.section_types()}


def last_name(node: ast.AST | None) -> str:
    """`run.recipe.data` -> "data"; "" for anything but a name or an attribute."""
    return getattr(node, "attr", "") or getattr(node, "id", "")


def holders(tree: ast.AST) -> set[str]:
    """Names in a file that hold settings."""
    found = set(RECEIVERS)
    for node in ast.walk(tree):
        annotation = getattr(node, "annotation", None)
        if annotation is not None and CLASS_NAMES & set(
            re.findall(r"\w+", ast.unparse(annotation))
        ):
            found.add(node.arg if isinstance(node, ast.arg) else last_name(node.target))
        if isinstance(node, ast.Assign) and last_name(node.value) in RECEIVERS:
            found |= {last_name(target) for target in node.targets}
    return found - {""}


def reads(source: str) -> Iterator[str]:
    """Patterns of the settings that a source file reads."""
    tree = ast.parse(source)
    names = holders(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if last_name(node.value) in names:
                yield re.escape(node.attr)
        elif isinstance(node, ast.Call) and last_name(node.func) == "getattr":
            yield from [_pattern(node.args[1])] if last_name(node.args[0]) in names else []
        elif isinstance(node, ast.Call) and last_name(node.func) in ("folder", "of_sources"):
            yield from [_pattern(node.args[0])] if node.args else []  # sources.folder("shr", ...)
        elif isinstance(node, ast.Call) and last_name(node.func) == "of_section":
            prefix = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            known = CHAT_FIELDS if prefix and last_name(node.args[0]) in names else ()
            yield from (f"{prefix}{field}" for field in known)


def _pattern(name: ast.expr) -> str:
    """Of `getattr`'s second argument; at least one part of it must be literal."""
    if isinstance(name, ast.Constant):
        return re.escape(str(name.value))
    if isinstance(name, ast.JoinedStr):
        parts = [re.escape(p.value) if isinstance(p, ast.Constant) else ".+" for p in name.values]
        return "".join(parts) if set(parts) != {".+"} else "(?!)"
    return "(?!)"  # computed elsewhere: it proves nothing


@pytest.fixture(scope="module")
def patterns() -> set[str]:
    """Of all files; in the config package, what a section reads of itself."""
    files = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "config" not in path.parents]
    assert len(files) > 10
    own = ast.walk(ast.parse((PACKAGE / "config" / "sections.py").read_text()))
    by_itself = {
        re.escape(node.attr)
        for node in own
        if isinstance(node, ast.Attribute) and last_name(node.value) == "self"
    }
    return by_itself | {pattern for path in files for pattern in reads(path.read_text())}


def fields() -> list[str]:
    """`Class.field` of every setting; a recipe's sections are tested through their own fields."""
    return [
        f"{kind.__name__}.{field.name}"
        for kind in CLASSES
        for field in dataclasses.fields(kind)
        if not (kind is config.Recipe and field.name in config.section_types())
    ]


@pytest.mark.parametrize("field", fields())
def test_every_setting_is_read(field, patterns):
    name = field.partition(".")[2]
    assert any(re.fullmatch(pattern, name) for pattern in patterns), f"nothing reads {field}"


def test_no_two_sections_share_a_setting():
    """So that a parameter's name says which section it belongs to."""
    names = [field.partition(".")[2] for field in fields() if not field.startswith("Recipe.")]
    assert len(names) > 40
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("run.settings.beta", {"beta"}),
        ("run.recipe.train.gamma", {"train", "gamma"}),
        ("def f(t: TrainConfig):\n    return t.steps", {"steps"}),
        ("def f(m: 'ModelConfig | None'):\n    return m.dtype", {"dtype"}),
        ("s = run.settings\ns.limit", {"limit"}),
        ("getattr(settings, f'{name}_beams')", {".+_beams"}),
        ("getattr(settings, 'judge')", {"judge"}),
        ("getattr(settings, name)", {"(?!)"}),
        ("C.of_section(settings, 'judge_')", {f"judge_{field}" for field in CHAT_FIELDS}),
        ("C.of_section(other, 'judge_'); C.of_section(settings, prefix)", set()),
        ("settings.beta = 1; other.beta; 'beta'; settings['beta']", set()),
    ],
)
def test_what_counts_as_a_read(source, expected):
    assert set(reads(source)) == expected
