"""The files that describe the environment agree: pyproject, constraints, conda file, Makefile."""

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
    chosen = re.findall(r"^EXTRAS \?= (\S+)", makefile, flags=re.M)
    chosen += re.findall(r"EXTRAS=(\S+)", (ROOT / ".ci/run").read_text())
    assert len(chosen) == 2
    assert {extra for line in chosen for extra in line.split(",")} <= set(EXTRAS)


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
