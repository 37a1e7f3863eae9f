"""The README is true: its commands work, its links lead somewhere, its map shows the house.

Every line of every bash block is checked by the rule of its first word. What needs weights, a GPU,
a network or minutes is checked as far as it goes without: dry runs, `make -n`, argument parsing.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import papermill
import pytest
import typer.main
import typer.testing

from hadpo import config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", README, flags=re.M | re.S)
    for line in block.splitlines()
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Commands run in the checkout, and leave nothing there."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    yield
    assert not (tmp_path / "runs").exists()


def check_hadpo(words: list[str]) -> None:
    """Options and arguments parse; `run` and `stage` do all but the work; the doctor looks."""
    from hadpo.cli import app

    command = typer.main.get_command(app)
    name, *rest = words
    context = command.make_context("hadpo", [name, *rest])
    chosen = command.get_command(context, name)  # pyright: ignore[reportAttributeAccessIssue]
    assert chosen is not None, f"hadpo has no command {name!r}"
    chosen.make_context(name, list(rest), parent=context)
    if name in ("run", "stage"):
        recipe = rest[0] if name == "run" else rest[1]
        assert config.load_recipe(recipe).name == recipe
        assert "dry run" in run_cli(app, [name, *rest, "--dry-run"], allowed={0})
    elif name == "doctor":
        assert "python" in run_cli(app, words, allowed={0, 3})


def run_cli(app: typer.Typer, words: list[str], allowed: set[int]) -> str:
    """What a command prints; its exit code is one of those allowed."""
    result = typer.testing.CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in allowed, result.output
    return result.output


def check_make(words: list[str]) -> None:
    """The target exists; its recipe is printed, not run."""
    done = subprocess.run(["make", "-n", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 0


def check_papermill(words: list[str]) -> None:
    """The notebook exists, knows the parameters, and the recipe accepts their values."""
    notebook, _, *rest = words
    known = papermill.inspect_notebook(notebook)
    given = {}
    while rest:
        flag, name, value, *rest = rest
        assert flag == "-p"
        assert name in known, f"{notebook} has no parameter {name!r}"
        given[name] = value
    recipe = given.pop("recipe")
    given.pop("run", None)
    stage = Path(notebook).stem.partition("_")[2]
    assert config.load_recipe(recipe, given, stage=stage).name == recipe


def check_hf(words: list[str]) -> None:
    """What is downloaded lies where a recipe looks for it, and the recipe names the same source."""
    download, source, flag, folder = words
    assert (download, flag) == ("download", "--local-dir")
    name = Path(folder).relative_to("models").as_posix()
    lines = [
        line
        for path in config.RECIPES.rglob("*.yaml")
        for line in path.read_text().splitlines()
        if "${HADPO_MODELS}/" + name in line
    ]
    assert lines
    assert all(source in line for line in lines)


def check_pip(words: list[str]) -> None:
    """The files and the extras exist."""
    install, flag, constraints, editable, package = words
    assert (install, flag, editable) == ("install", "-c", "-e")
    assert Path(constraints).is_file()
    extras = re.fullmatch(r"\.\[(.+)\]", package)
    assert extras is not None
    text = Path("pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", text, flags=re.M) for extra in extras[1].split(","))


def check_python3(words: list[str]) -> None:
    """`python3 -m venv .venv`: the module is there, the folder is the one that the rest names."""
    assert words == ["-m", "venv", ".venv"]
    __import__("venv")


def check_source(words: list[str]) -> None:
    """An environment has such a script."""
    assert words == [".venv/bin/activate"]
    assert (BIN / "activate").is_file()


CHECKS = {
    "hadpo": check_hadpo,
    "make": check_make,
    "papermill": check_papermill,
    "hf": check_hf,
    "pip": check_pip,
    "python3": check_python3,
    "source": check_source,
}


def test_commands_were_found():
    assert len(COMMANDS) > 15
    assert README.count("```") == 2 * README.count("```bash\n")


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line):
    word, *rest = shlex.split(line)
    word = word.removeprefix(".venv/bin/")
    if word not in ("make", "source"):
        assert (BIN / word).exists(), f"{word} is not installed"
    CHECKS[word](rest)


def test_links_and_pictures_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 8
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_map_shows_the_house():
    shown = set(re.findall(r"^      ([a-z_]+(?:\.py|/)) ", README, flags=re.M))
    paths = [p for p in (ROOT / "hadpo").iterdir() if not p.name.startswith(("_", "."))]
    there = {p.name + "/" * p.is_dir() for p in paths}
    assert shown == there


def test_recipes_that_the_text_names_exist():
    named = set(re.findall(r"hadpo (?:run|doctor) ([\w./-]+)", README)) - {"--dry-run"}
    assert {"mini/llava", "llava-1.5-7b", "llava-1.5-7b-v100", "photoset"} <= named
    assert named <= set(config.recipe_names())


def test_data_folders_are_those_of_the_recipes():
    table = set(re.findall(r"^\| `(data/[^`]+)` \|", README, flags=re.M))
    data = config.load_recipe("llava-1.5-7b").data
    wanted = (data.visual_genome, data.pairs_folder, data.coco, data.pope, data.shr)
    assert table == {path.replace("${HADPO_DATA}", "data") for path in wanted}


def test_reported_numbers_are_those_of_the_files():
    import csv

    def rows(name: str) -> list[dict[str, str]]:
        with (ROOT / "papers_results" / "reported" / name).open() as file:
            return [row for row in csv.DictReader(file) if row["backbone"] == "llava-1.5-7b"]

    expected = set()
    for model in ("base", "HA-DPO"):
        by_split = {
            r["split"]: r["accuracy"] for r in rows("hadpo_pope.csv") if r["model"] == model
        }
        accuracies = [by_split[split] for split in ("random", "popular", "adversarial")]
        [shr] = [
            r["hallucinated_sentence_ratio"] for r in rows("hadpo_shr.csv") if r["model"] == model
        ]
        expected.add(f"| LLaVA-1.5-7B, {model} | {' | '.join(accuracies)} | {shr} |")
    assert expected == {line for line in README.splitlines() if line.startswith("| LLaVA-1.5")}
