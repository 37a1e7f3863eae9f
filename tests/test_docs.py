"""README and docs/ are true: their commands work, their links lead somewhere, the map is right.

Every line of every bash block is checked by the rule of its first word. What needs weights, a GPU,
a network or minutes is checked as far as it goes without: dry runs, `make -n`, argument parsing.
The Python block of README is executed by `test_model.py`.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import papermill
import pytest
import typer.main
import typer.testing

from hadpo import config, runs

ROOT = Path(__file__).parents[1]
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
README = PAGES[ROOT / "README.md"]
BIN = Path(sys.executable).parent
COMMANDS = list(
    dict.fromkeys(
        line
        for text in PAGES.values()
        for block in re.findall(r"^```bash\n(.*?)^```$", text, flags=re.M | re.S)
        for line in block.splitlines()
    )
)


def page(name: str) -> str:
    """The text of a page of docs/."""
    return PAGES[ROOT / "docs" / name]


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

    check_typer(app, "hadpo", words)
    name, *rest = words
    if name in ("run", "stage"):
        recipe = rest[0] if name == "run" else rest[1]
        assert config.load_recipe(recipe).name == recipe
        if "--adapter" in rest:  # it is not here, so the message names the command that fetches it
            with pytest.raises(runs.BadEnvironment, match="hadpo fetch adapters/"):
                run_cli(app, [name, *rest, "--dry-run"], allowed=set())
            return
        said = run_cli(app, [name, *rest, "--dry-run"], allowed={0, 3})  # 3: not all of it is here
        assert "dry run" in said
        lacking = {line.split()[-1] for line in said.splitlines() if line.startswith("missing ")}
        own = config.as_dict(config.load_recipe(recipe))
        texts = [*own["data"].values(), *((own["model"] or {}).get("files") or {}).values()]
        read = [part for text in texts if isinstance(text, str) for part in config.names(text)]
        places = tuple(str(config.resolve_path(part)) for part in read)
        assert [path for path in lacking if not path.startswith(places)] == []
    elif name == "doctor":
        assert "python" in run_cli(app, words, allowed={0, 3})


def check_typer(app: typer.Typer, program: str, words: list[str]) -> None:
    """The command exists, also within a group; its options and arguments parse."""
    command: Any = typer.main.get_command(app)
    context = command.make_context(program, list(words))
    while hasattr(command, "get_command"):
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"{program} has no command {name!r}"
        context = command.make_context(name, list(words), parent=context)


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


def check_vllm(words: list[str]) -> None:
    """Options that vLLM has; the folders are those that a merge writes."""
    serve, model, *rest = words
    known = {"--enable-lora", "--lora-modules", "--max-lora-rank", "--served-model-name"}
    assert serve == "serve" and {word for word in rest if word[:2] == "--"} <= known
    written = {word.rpartition("/")[2] for word in (model, *rest)}
    assert written & {"merged_transformers", "adapter_transformers"}


def check_python(words: list[str]) -> None:
    """`python -m tools.speed COMMAND ...` parses; lmms-eval gets a folder that a merge writes."""
    from tools.speed.__main__ import app

    flag, module, name, *rest = words
    if module == "lmms_eval":
        known = {"--model", "--model_args", "--tasks", "--batch_size", "--log_samples"}
        known.add("--output_path")
        assert {word for word in (name, *rest) if word[:2] == "--"} <= known
        assert any(word.endswith("/merged_transformers") for word in rest)
        return
    assert (flag, module) == ("-m", "tools.speed")
    check_typer(app(), module, [name, *rest])


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
    "python": check_python,
    "python3": check_python3,
    "source": check_source,
    "vllm": check_vllm,
}


def test_commands_were_found():
    assert len(COMMANDS) > 15
    for path, text in PAGES.items():
        blocks = text.count("```bash\n") + text.count("```python\n")
        assert text.count("```") == 2 * blocks, path


def test_readme_is_one_page():
    assert len(README.splitlines()) <= 110
    linked = set(re.findall(r"\]\(docs/([a-z_]+\.md)\)", README))
    assert linked == {path.name for path in PAGES} - {"README.md"}


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line):
    word, *rest = shlex.split(line, comments=True)
    word = word.removeprefix(".venv/bin/")
    if word not in ("make", "source", "vllm"):
        assert (BIN / word).exists(), f"{word} is not installed"
    CHECKS[word](rest)


def test_links_and_pictures_lead_somewhere():
    targets = [
        path.parent / target
        for path, text in PAGES.items()
        for target in re.findall(r"\]\(([^)#]+)\)", text)
    ]
    assert len(targets) > 8
    assert [target for target in targets if not target.exists()] == []


def test_the_map_shows_the_house():
    shown = set(re.findall(r"^      ([a-z_]+(?:\.py|/)) ", page("signed_path.md"), flags=re.M))
    paths = [p for p in (ROOT / "hadpo").iterdir() if not p.name.startswith(("_", "."))]
    there = {p.name + "/" * p.is_dir() for p in paths}
    assert shown == there


def test_recipes_that_the_text_names_exist():
    named = set(re.findall(r"hadpo (?:run|doctor) ([\w./-]+)", "\n".join(COMMANDS)))
    assert {"mini/llava", "llava-1.5-7b", "llava-1.5-7b-v100"} <= named
    assert named <= set(config.recipe_names())


def test_data_folders_are_those_of_the_recipes():
    table = set(re.findall(r"^\| `(data/[^`]+)` \|", page("real_data.md"), flags=re.M))
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


def test_numbers_of_the_mini_backbones_are_those_of_their_runs():
    places = ("pope", "adversarial", "accuracy"), ("shr", "val", "hallucinated_sentence_ratio")
    expected = []
    for name in (
        "llava-corrected",
        "instructblip",
        "minigpt4",
        "minigpt4-vicuna0",
        "mplug-owl",
        "hf",
    ):
        run = ROOT / "papers_results" / "reproduced" / f"mini-{name}"
        rows = [json.loads(line) for line in (run / "evaluate" / "metrics.jsonl").open()]
        found = {(r["benchmark"], r["split"], r["name"], r["model"]): r["value"] for r in rows}
        values = [found[*place, model] for place in places for model in ("base", "merged")]
        cells = [f"{100 * value:.1f}" for value in values]
        expected.append(f"| `mini/{name}` | {' | '.join(cells)} |")
    lines = page("results.md").splitlines()
    shown = [line for line in lines if re.match(r"\| `mini/[a-z0-9-]+` \|", line)]
    assert shown == expected


def test_measured_speed_is_that_of_the_files():
    folder = ROOT / "papers_results" / "speed"
    lines = (folder / "train-cpu-toy.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    measured = {(row[2], row[1]): row[3] for row in cells if row[:1] == ["times faster"]}
    shown = re.findall(
        r"^\| than (.+?) \| (.+?) \| ([\d.]+) \| [\d.]+(, missed)? \|$",
        page("speed.md"),
        flags=re.M,
    )
    assert len(shown) == 9
    for name, kind, factor, missed in shown:
        name = name.replace(", our reference", "; our reference").replace(", four", "; ours four")
        name = name.replace("image a row", "image per row")
        assert measured[name, kind] == factor
        [row] = [r for r in cells if r[:3] == ["times faster", kind, name]]
        assert (row[7] == "reaches the aim") is not bool(missed), name
    rows = json.loads((folder / "count.json").read_text())["geometries"]["llava-7b"]["rows"]
    counts = {r["name"]: r for r in rows if r["kind"] == "desc" and r["recomputes"]}
    number = r"\| [\d.]+ "
    shown = re.findall(rf"^\| (.+?) {number * 3}\| ([\d,]+) \| (\d+) \|$", page("speed.md"), re.M)
    assert len(shown) == 4
    for name, launches, milliseconds in shown:
        row = counts[name.removesuffix(", descriptions")]
        assert f"{row['launches']:,.0f} {row['ms']['A100']:.0f}" == f"{launches} {milliseconds}"
    answers = json.loads((folder / "evaluate-cpu-toy.json").read_text())
    assert answers["equal_answers"]
    for key in ("vs_sequential", "vs_sequential_stop", "beam5_vs_sequential"):
        assert f"{answers[key]:.1f} times less" in " ".join(page("speed.md").split())
    data = json.loads((folder / "prepare.json").read_text())["measured"]
    for what, records in (
        ("lrv read, filter, convert", 300_000),
        ("hic read, filter, convert", 1_000_000),
    ):
        [row] = [r for r in data if (r["what"], r["records"]) == (what, records)]
        assert f"{row['records_per_cpu_second']:,}" in page("speed.md")
