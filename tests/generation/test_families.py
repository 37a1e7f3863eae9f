"""Every mini model that a recipe names: the engine's answers are those of one question at a time.

(The families' recordings are tried in tests/backbones/test_contract.py.)
"""

import pytest
import torch

from hadpo import backbones, config
from hadpo.config import RECIPES
from hadpo.data import Report, pope, shr, visual_genome
from hadpo.generation import Decoding, generate
from hadpo.mini import build

pytestmark = pytest.mark.slow

IMAGES = 20
GREEDY = Decoding(name="pope", max_new_tokens=8)
BEAMS = Decoding(name="shr", max_new_tokens=60, beams=5)


def minis():
    """Backbone -> recipe, of all recipes of the mini world; each backbone once."""
    found = {}
    for path in sorted((RECIPES / "mini").glob("*.yaml")):
        name = f"mini/{path.stem}"
        model = config.load_recipe(name).model
        if model is not None:
            found.setdefault(model.backbone, name)
    return found


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build(folder, seed=11, train_images=1, test_images=IMAGES)
    report = Report()
    asked = pope.read(folder / "POPE/output/coco", folder / "coco2014", report)
    images = visual_genome.images(folder / "VG", report)
    described = shr.questions(shr.image_ids(folder / "shr", report), images)
    report.finish()
    return asked, described


@pytest.mark.parametrize("name", minis().values())
def test_the_engine_answers_as_one_by_one(name, questions):
    torch.set_num_threads(1)
    recipe = config.load_recipe(name)
    backbone = backbones.load_for(recipe, backbones.files_of(recipe, config.resolve_path))
    assert backbone.dtype == torch.float32
    for asked, decoding in zip(questions, (GREEDY, BEAMS), strict=True):
        ways = [
            {a.question_id: a for a in generate(backbone, asked, decoding, model="base", **options)}
            for options in ({"exact": True}, {"batch_questions": 0})
        ]
        assert len(ways[0]) == len(asked) >= IMAGES
        assert len({a.text for a in ways[0].values()}) > 1
        assert ways[0] == ways[1]
