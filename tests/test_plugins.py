import pytest

from hadpo import plugins
from hadpo.records import BadInput


def test_the_public_modules_are_the_plugins():
    names = plugins.available("hadpo.backbones")
    assert "llava" in names
    assert not [name for name in names if name.startswith("_")]


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(BadInput, match=r"no backbones module named 'lava'; did you mean 'llava'\?"):
        plugins.load("hadpo.backbones", "lava")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of one's own plugins, with one benchmark in it."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "own_eyes.py").write_text("WHAT = 1\n")
    monkeypatch.setenv("HADPO_PLUGINS", str(tmp_path))
    yield tmp_path
    monkeypatch.delenv("HADPO_PLUGINS")
    plugins.available("hadpo.benchmarks")


def test_a_folder_of_ones_own_plugins_is_searched_too(folder, monkeypatch):
    assert {"own_eyes", "pope"} <= {*plugins.available("hadpo.benchmarks")}
    assert plugins.load("hadpo.benchmarks", "own_eyes").WHAT == 1
    assert "own_eyes" not in plugins.available("hadpo.judges")
    monkeypatch.setenv("HADPO_PLUGINS", "")
    assert "own_eyes" not in plugins.available("hadpo.benchmarks")


def test_a_plugin_with_the_name_of_another_is_refused(folder):
    (folder / "benchmarks" / "pope.py").write_text("")
    with pytest.raises(BadInput, match=r"two modules of hadpo\.benchmarks are named pope; rename"):
        plugins.available("hadpo.benchmarks")


def test_a_folder_of_plugins_that_is_not_there_is_named(folder, monkeypatch):
    monkeypatch.setenv("HADPO_PLUGINS", str(folder / "nowhere"))
    with pytest.raises(BadInput, match=r"HADPO_PLUGINS: .*nowhere is no folder"):
        plugins.available("hadpo.benchmarks")
