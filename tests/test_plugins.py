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
