"""The files that describe the environment agree: pyproject, constraints, conda file, Makefile."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


def pins() -> dict[str, str]:
    """Name -> version of every line of constraints.txt, in the file's order."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "constraints.txt holds name==version only"
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), "a name is pinned twice"
    return dict(pairs)


def requirements() -> list[Requirement]:
    """Every requirement of the library and of its extras, those on itself left out."""
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    found = [Requirement(line) for line in lines]
    return [requirement for requirement in found if requirement.name != "hadpo"]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_dependency_has_a_range_and_its_pin_lies_inside(requirement):
    assert requirement.specifier, f"{requirement.name} has no lower bound"
    assert "==" not in str(requirement.specifier), f"{requirement.name}: pins go to constraints.txt"
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} has no pin in constraints.txt"
    assert Version(pin) in requirement.specifier


def test_every_dependency_says_why_it_is_needed():
    section = (
        (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("]")[0]
    )
    lines = [line.strip() for line in section.splitlines() if line.strip().startswith('"')]
    assert len(lines) == len(PROJECT["dependencies"])
    assert [line for line in lines if "  # " not in line] == []


def test_no_dependency_stands_twice():
    names = [canonicalize_name(requirement.name) for requirement in requirements()]
    assert sorted(names) == sorted(set(names))


def test_torch_is_pinned_exactly_and_without_a_build():
    assert pins()["torch"] == "2.13.0"
    builds = [name for name in pins() if re.match(r"(nvidia|cuda|triton|pytorch)\b", name)]
    assert not builds, "these belong to one build of torch, which brings its own"


def test_pins_are_sorted_and_spelt_canonically():
    names = list(pins())
    assert names == sorted(names)
    assert names == [canonicalize_name(name) for name in names]
    assert all(str(Version(version)) == version for version in pins().values())
    assert not [version for version in pins().values() if Version(version).local]


def test_installed_versions_are_the_pinned_ones():
    """The numbers of a test run are those of the pinned environment, not of another one."""
    from importlib.metadata import version

    wrong = {}
    for requirement in map(Requirement, [*PROJECT["dependencies"], *EXTRAS["test"]]):
        found, pin = version(requirement.name), pins()[canonicalize_name(requirement.name)]
        if Version(found).public != pin:
            wrong[requirement.name] = (found, pin)
    assert not wrong, f"installed, pinned: {wrong}; `make test` installs with constraints.txt"


def test_conda_file_is_a_thin_shell():
    assert CONDA["name"] == PROJECT["name"]
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    *packages, last = CONDA["dependencies"]
    python, pip = packages
    assert pip == "pip"
    version = python.removeprefix("python=")
    assert Version(version) in SpecifierSet(PROJECT["requires-python"])
    assert list(last) == ["pip"]


def test_conda_file_installs_what_make_installs():
    constraint, package = CONDA["dependencies"][-1]["pip"]
    assert constraint == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[([a-z0-9,]+)\]", package)
    assert extras, f"expected `-e .[extras]`, found {package!r}"
    assert set(extras[1].split(",")) <= set(EXTRAS)
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r'pip install .*-c constraints\.txt -e "\.\[\$\(EXTRAS\)\]"', makefile)
    named = re.findall(r"EXTRAS=([a-z0-9,]+)", makefile + (ROOT / ".ci/run").read_text())
    assert {extra for line in named for extra in line.split(",")} <= set(EXTRAS)


OPTIONAL = (  # packages that only an extra brings, by the names that are imported
    *("bitsandbytes", "gradio", "starlette", "fastapi", "uvicorn", "py3langid", "profanity_check"),
    *("playwright", "trl", "liger_kernel", "datasets"),
)


def test_the_type_check_needs_no_extra():
    """pyright checks such an import if the package is there, and does not mind if it is not."""
    wrong = []
    for path in [*(ROOT / "hadpo").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            line = text.splitlines()[node.lineno - 1] if names else ""
            is_optional = any(name.partition(".")[0] in OPTIONAL for name in names)
            if is_optional and "# pyright: ignore[reportMissingImports]" not in line:
                wrong.append(f"{path}:{node.lineno}: {line}")
    assert not wrong, "\n".join(wrong)


CI = (ROOT / ".ci" / "run").read_text()


def test_ci_runs_the_two_commands_of_readme_as_they_stand():
    """A variable that changes what is installed or tested would hide what a newcomer meets."""
    readme = (ROOT / "README.md").read_text().splitlines()
    assert {"make demo", "make test"} <= set(readme)
    made = re.findall(r"^make .*", CI, flags=re.M)
    assert made[:2] == ["make demo RECIPE=mini/llava-smoke", "make test"]
    assert [word for word in made[2].split() if word != "types"][:2] == ["make", "test-extras"]
    extras = set(made[2].split("EXTRAS=")[1].split(","))
    assert extras == {"test", "qlora", "page", "e2e", "filters", "fused"}
    assert len(made) == 3 and CI.rstrip().endswith(made[2])


def test_ci_starts_from_nothing_and_fails_with_what_fails():
    assert "set -euo pipefail" in CI
    before, _, after = CI.partition("make demo")
    assert "rm -rf .ci/fresh" in before and "git clone" in before and "export HOME=" in before
    assert set(re.findall(r"^\s*(?:export )?([A-Z_]+)=", CI, flags=re.M)) == {
        "HOME",
        "DEBIAN_FRONTEND",
    }
    assert "||" not in after and "if " not in after
    assert "torchvision" not in (ROOT / "constraints.txt").read_text()


@pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")
@pytest.mark.parametrize("has_gpu", [True, False])
def test_four_bits_come_only_to_a_machine_with_a_gpu(tmp_path, has_gpu):
    for name in ("make", "sh", "cat"):
        (tmp_path / name).symlink_to(shutil.which(name))
    if has_gpu:
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)

    def extras(*settings):
        done = subprocess.run(
            ["make", "-n", "types", *settings],
            cwd=tmp_path,
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        [found] = re.findall(r"-e \"\.\[([a-z0-9,]+)\]\"", done.stdout)
        return found

    assert extras() == ("test,qlora" if has_gpu else "test")
    assert extras("EXTRAS=test,page") == "test,page"


def test_every_extra_that_hadpo_asks_of_itself_exists():
    asked = [Requirement(line) for lines in EXTRAS.values() for line in lines]
    own = {extra for r in asked if r.name == "hadpo" for extra in r.extras}
    assert own
    assert own <= set(EXTRAS)


def test_versions_stand_once():
    import hadpo

    assert PROJECT["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hadpo.__version__


@pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")
def test_the_mark_notices_other_extras_and_another_torch(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    mark = tmp_path / ".venv" / ".ok"
    mark.parent.mkdir()

    def commands(*settings):
        line = ["make", "-n", ".venv/.ok", "VENV=.venv", *settings]
        alone = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            line, cwd=tmp_path, env=alone, capture_output=True, text=True, check=True
        )
        return done.stdout

    mark.write_text("EXTRAS=test TORCH_INDEX=\n")
    assert "pip" not in commands("EXTRAS=test", "TORCH_INDEX=")
    assert '".[test,qlora]"' in commands("EXTRAS=test,qlora", "TORCH_INDEX=")
    other = commands("EXTRAS=test", "TORCH_INDEX=https://example.org/cu126")
    assert "pip uninstall --yes --quiet torch" in other
    assert "--extra-index-url https://example.org/cu126" in other
    assert "echo 'EXTRAS=test TORCH_INDEX=https://example.org/cu126' > .venv/.ok" in other
    mark.write_text("")  # of a time before the mark said what it stands for
    assert "pip install" in commands("EXTRAS=test", "TORCH_INDEX=")
