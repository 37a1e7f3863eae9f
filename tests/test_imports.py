"""The import table of hadpo, as data. A new edge is a design decision: it is added here first."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hadpo"
FILES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted((PACKAGE.parent / "tools").rglob("*.py"))

# In this order: a room may import rooms that stand above it in the table, never one below.
MAY_IMPORT: dict[str, set[str]] = {
    "places": set(),
    "records": {"places"},
    "text": set(),
    "loss": set(),
    "measures": set(),
    "images": {"records"},
    "plugins": {"records"},
    "config": {"places", "records", "plugins"},
    "cost": {"config"},  # plan, doctor and generation estimate with one model
    "chat": {"records", "images", "config", "text"},
    "runs": {"places", "records", "config", "plugins"},
    "data": {"records", "images", "plugins", "text"},
    "vlm": {"records", "images", "config", "plugins", "cost"},
    "backbones": {"records", "images", "config", "plugins", "cost", "vlm"},
    "judges": {"records", "plugins", "text", "chat"},
    "batch": {"records", "images", "config", "loss", "cost", "vlm", "backbones"},
    "adapter": {"records", "config", "plugins", "runs", "vlm", "backbones", "batch", "loss"},
    "generation": {
        "records",
        "chat",
        "images",
        "config",
        "plugins",
        "cost",
        "runs",
        "vlm",
        "backbones",
    },
    "tables": {"records", "config", "plugins", "text", "measures", "runs"},
    "figures": {"records", "images", "config", "plugins", "text", "runs", "tables"},
    "summary": {"records", "config", "plugins", "runs", "tables", "figures"},  # a run's page
    "instructions": {"records", "config", "plugins", "text", "chat", "runs", "data", "judges"},
    "pairs": {
        *("records", "config", "plugins", "text", "chat", "runs", "data"),
        *("judges", "vlm", "backbones", "batch", "generation", "instructions"),
    },
    "benchmarks": {
        *("records", "config", "plugins", "text", "measures", "chat", "runs", "data"),
        *("judges", "vlm", "backbones", "adapter", "generation"),
    },
    "trainer": {
        *("records", "config", "plugins", "cost", "runs", "vlm", "backbones"),
        *("batch", "loss", "adapter"),
    },
    "mini": {"records", "plugins", "text", "data"},
    "explore": {"records", "config", "plugins", "text", "runs", "tables", "figures"},
    "page": {
        *("records", "images", "config", "plugins", "text", "chat", "runs", "judges"),
        *("vlm", "backbones", "adapter", "generation", "mini"),
    },
    "classroom": {
        *("records", "plugins", "text", "runs", "judges", "vlm", "backbones", "batch", "adapter"),
        "figures",
    },
    "doctor": {
        *("records", "config", "plugins", "runs", "data", "vlm", "backbones", "mini", "cost"),
    },
    "worker": {"records", "config", "runs", "trainer"},
    "cli": {
        *(
            "text",
            "places",
            "records",
            "config",
            "plugins",
            "runs",
            "tables",
            "pairs",
            "judges",
            "generation",
        ),
        *("benchmarks", "figures", "vlm", "backbones", "adapter", "data", "doctor", "page"),
        *("instructions", "chat", "summary"),
    },
    "model": {
        *("records", "config", "plugins", "runs", "data", "vlm", "backbones", "adapter"),
        *("generation", "benchmarks", "trainer"),
    },
    "__main__": {"cli"},
    "": {"model"},  # the front door
    "speed": set(),  # names the command that it became
}
# Third-party names -> the only parts that import them; tools/ may import all of hadpo, and these.
ONLY_IN: dict[str, set[str]] = {
    "openai": {"chat"},
    "peft": {"adapter"},
    "transformers": {"vlm", "backbones", "generation"},  # generation: logits processors
    "papermill": {"runs"},
    "matplotlib": {"figures", "explore"},
    "pandas": {"tables", "explore"},
    "gradio": {"page"},
    "ipywidgets": {"explore", "classroom"},
    "starlette": {"page"},
    "fastapi": {"page"},
    "uvicorn": {"page"},
    "typer": {"cli"},
    "nltk": {"benchmarks"},
    "openpyxl": {"benchmarks"},
    "trl": set(),
    "liger_kernel": set(),
    "torch": {
        *("loss", "vlm", "backbones", "batch", "adapter", "generation", "trainer"),
        *("doctor", "worker", "page", "classroom"),
    },
    "huggingface_hub": {"data", "vlm"},
    "requests": {"data", "vlm"},
    "httpx": {"data", "vlm"},
    "httpx2": {"data", "vlm", "chat"},
    "gdown": {"data", "vlm"},
    "aiohttp": {"data", "vlm"},
    "urllib.request": {"data", "vlm"},
}
PLUGIN_PACKAGES = ("backbones", "judges", "benchmarks", "data")
LINES = 600
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
# Judging, scoring and comparing work where torch is not installed.
WITHOUT_TORCH = (
    *(
        "places",
        "records",
        "images",
        "config",
        "cost",
        "plugins",
        "text",
        "measures",
        "chat",
        "runs",
    ),
    *("data", "judges", "benchmarks", "tables", "figures"),
)


def dotted(path: Path, package: Path = PACKAGE) -> str:
    """The module's name below `hadpo`: "backbones.llava", "records", "" for the package itself."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, at any depth; relative names start with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def within(name: str, prefix: str) -> bool:
    """Whether a dotted name is `prefix` or lies below it."""
    return name == prefix or name.startswith(prefix + ".")


def wrong_imports(source: str, module: str, modules: set[str]) -> Iterator[str]:
    """What the import table has against the source of one module; `modules` are all of hadpo's."""
    part = module.partition(".")[0]
    for line, name in imports(ast.parse(source)):
        here = f"{module or '__init__'}:{line} imports {name}"
        if name.startswith("."):
            yield f"{here}: import from hadpo by its full name"
        elif name.endswith(".*"):
            yield f"{here}: name what you import"
        elif within(name, "hadpo"):
            yield from (f"{here}: {why}" for why in _wrong_edge(name, module, part, modules))
        else:
            if within(name, "tools"):
                yield f"{here}: tools/ is not installed"
            for fenced, allowed in ONLY_IN.items():
                if within(name, fenced) and part not in allowed:
                    yield f"{here}: {fenced} belongs to {sorted(allowed) or 'nobody'}"


def _wrong_edge(name: str, module: str, part: str, modules: set[str]) -> Iterator[str]:
    target = name.partition(".")[2]
    while target and target not in modules:  # from hadpo.records import Pair -> records
        target = target.rpartition(".")[0]
    target_part = target.partition(".")[0]
    if not target:
        return  # hadpo itself holds its version only
    if target_part != part:
        if part not in MAY_IMPORT:
            yield f"{part} has no row in the table"
        elif target_part not in MAY_IMPORT[part]:
            yield f"no such edge: {part} may import {sorted(MAY_IMPORT[part])}"
        hidden = any(re.match(r"_(?!_)", piece) for piece in name.split(".")[1:])
        if hidden:
            yield f"it is private to {target_part}"
    elif (
        part in PLUGIN_PACKAGES and module != part and _plugin(target) not in ("", _plugin(module))
    ):
        yield f"a plugin of {part} imports its sibling; shared parts are files that begin with _"


def _plugin(module: str) -> str:
    """Name of the plugin that a module is, or is a part of; "" for a shared part."""
    name = [*module.split("."), ""][1]
    return "" if name.startswith("_") else name


MODULES = {dotted(path) for path in FILES}


def test_every_import_is_an_allowed_edge():
    assert len(FILES) > 10
    wrong = [w for path in FILES for w in wrong_imports(path.read_text(), dotted(path), MODULES)]
    assert not wrong, "\n".join(wrong)


def test_every_part_has_a_row():
    parts = {module.partition(".")[0] for module in MODULES} - {""}
    assert parts <= set(MAY_IMPORT)


def test_imports_go_only_downwards():
    rooms = list(MAY_IMPORT)
    upwards = {
        (room, target)
        for number, (room, targets) in enumerate(MAY_IMPORT.items())
        for target in targets
        if target not in rooms[:number]
    }
    assert not upwards


def test_no_circle_of_modules():
    """Not even inside a room; imports at run time only, as `TYPE_CHECKING` breaks no start."""
    graph = {dotted(path): set(_runtime_imports(path)) for path in FILES}
    assert list(
        TopologicalSorter(graph).static_order()
    )  # raises CycleError, which names the circle


def _runtime_imports(path: Path) -> Iterator[str]:
    """Modules of hadpo that a module's import, not its functions, brings in."""
    tree = ast.parse(path.read_text())
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for _, name in imports(node):
            target = name.partition(".")[2] if within(name, "hadpo") else ""
            while target and target not in MODULES:
                target = target.rpartition(".")[0]
            if target and target not in (dotted(path), package):
                yield target


@pytest.mark.parametrize(
    ("module", "line", "why"),
    [
        ("records", "from hadpo.config import Recipe", "no such edge"),
        ("text", "from hadpo import records", "no such edge"),
        ("loss", "def f():\n    import hadpo.trainer", "no such edge"),
        ("data.coco", "import torch.nn as nn", "torch belongs to"),
        ("mini.world", "import torch", "torch belongs to"),
        ("tables", "from matplotlib import pyplot", "matplotlib belongs to"),
        ("trainer", "from peft import LoraConfig", "peft belongs to"),
        ("runs.execute", "from urllib import request", "urllib.request belongs to"),
        ("trainer", "import trl", "belongs to nobody"),
        ("backbones.llava", "from hadpo.backbones.minigpt4 import MiniGPT4", "sibling"),
        ("backbones._splice", "from hadpo.backbones import llava", "sibling"),
        ("judges.oracle.world", "from hadpo.judges.llm import ask", "sibling"),
        ("trainer", "from hadpo.backbones._llama import forward", "private"),
        ("cli", "from hadpo.runs import _open", "private"),
        ("config", "from ..records import Pair", "full name"),
        ("config", "from hadpo.records import *", "name what you import"),
        ("newcomer", "from hadpo.records import Pair", "no row"),
        ("", "from hadpo.records import Pair", "no such edge"),
        ("trainer", "from tools.speed import machine", "not installed"),
    ],
)
def test_a_bad_edge_is_found(module, line, why):
    known = {"", *MAY_IMPORT, "backbones.minigpt4", "backbones.llava"}
    known |= {"backbones._llama", "judges.llm"}
    found = list(wrong_imports(line, module, known))
    assert len(found) == 1
    assert why in found[0]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("config.recipe", "from hadpo.records import BadInput"),
        ("backbones.llava", "from hadpo.vlm.decoder import llama_forward"),
        ("backbones", "from hadpo.backbones import llava"),
        ("batch", "from hadpo.vlm.backbone import Backbone"),
        ("judges.oracle.world", "from hadpo.judges.oracle.vocabulary import Reading"),
        ("cli", "from hadpo import __version__"),
        ("data.coco", "from urllib.parse import quote"),
    ],
)
def test_a_good_edge_is_not(module, line):
    known = {"", *MAY_IMPORT, "backbones.llava", "backbones._llama"}
    known |= {"judges.oracle", "judges.oracle.vocabulary"}
    assert list(wrong_imports(line, module, known)) == []


def test_no_file_is_too_long_to_read():
    long = {str(p): n for p in FILES + TOOLS if (n := len(p.read_text().splitlines())) > LINES}
    assert not long, f"over {LINES} lines; split by idea into a package of the same name: {long}"


def test_no_file_has_an_empty_name():
    modules = MODULES | {dotted(path, PACKAGE.parent) for path in TOOLS}
    names = {piece.strip("_") for module in modules for piece in module.split(".")}
    assert names.isdisjoint(EMPTY_NAMES)


def test_the_library_does_not_print():
    calls = [
        f"{path}:{node.lineno}"
        for path in FILES + TOOLS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert not calls, f"log, or return what is to be shown: {calls}"


def fresh(code: str) -> list[str]:
    """The lines that a new interpreter prints for `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_hadpo_is_instant():
    new = fresh(
        "import sys; before = set(sys.modules); import hadpo; print(*set(sys.modules) - before)"
    )
    assert new == ["hadpo"]


def test_judging_scoring_and_comparing_run_without_torch():
    names = [f"hadpo.{m}" for m in sorted(MODULES) if m.partition(".")[0] in WITHOUT_TORCH]
    assert len(names) > 10
    code = (
        "import importlib, sys\n"
        "for name in ('torch', 'transformers', 'peft', 'accelerate'): sys.modules[name] = None\n"
        f"for name in {names}: importlib.import_module(name); print(name)"
    )
    assert fresh(code) == names
