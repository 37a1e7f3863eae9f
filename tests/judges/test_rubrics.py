"""The prompts that judges get: regions as the original shows them, every slot filled, versions."""

import json

import pytest

from hadpo import plugins
from hadpo.benchmarks import Benchmark
from hadpo.judges import SENTENCES, Rubric, case_mark, prompt_of, relative_boxes
from hadpo.records import BadInput, Case, Evidence, Region

BOX = Region(x=0, y=0, width=50, height=25, phrase="a {facts} dog")
EVIDENCE = Evidence(image_id="1", image="", width=100, height=100, regions=(BOX,), facts=("So.",))
CASE = Case(
    case_id="1", model="m", claims=("A dog\n2. fake.", "B."), evidence=EVIDENCE, question="What?"
)


def test_regions_are_those_of_the_original(shared):
    golden = json.loads((shared / "golden/shr/shr_cases.json").read_text())["get_desc"]
    [(key, size)] = golden["input"]["id2img"].items()
    regions = tuple(
        Region(**{k: float(v) if k != "phrase" else v for k, v in region.items()})
        for region in golden["input"]["id2reg"][key]["regions"]
        if region["phrase"]  # the reader leaves empty phrases out, as the original does
    )
    evidence = Evidence(image_id=key, image="", **size, regions=regions)
    assert relative_boxes(evidence) + "\n" == golden["result"]


RUBRICS = {
    rubric.name: rubric
    for name in plugins.available("hadpo.benchmarks")
    for rubric in Benchmark.named(name).RUBRICS
    if rubric.slots is None  # else its benchmark fills the slots, and tests that
}


def test_there_are_rubrics():
    assert RUBRICS.keys() >= {"shr", "gavie", "gqa"}


@pytest.mark.parametrize("rubric", RUBRICS.values(), ids=RUBRICS)
@pytest.mark.parametrize("is_json", [True, False])
def test_every_slot_is_filled_once(rubric, is_json):
    prompt = prompt_of(rubric, is_json=is_json)
    text = prompt.render(CASE)
    shows_regions = bool(rubric.regions(EVIDENCE))  # an examiner goes by the right answer
    assert shows_regions == (rubric.name != "gqa")
    assert ("a {facts} dog" in text) == shows_regions  # what is filled in is not filled again
    assert text.count("{") == shows_regions
    assert (case_mark(CASE) in text) == is_json
    assert "A dog 2. fake." in text  # a newline inside a claim does not make two of it
    assert (prompt.schema is not None) == is_json
    assert prompt_of(rubric, is_json=not is_json).version != prompt.version
    assert all((rubric.prompt, rubric.lines, rubric.json))


def test_a_prompt_of_ones_own_has_its_own_version(tmp_path):
    (tmp_path / "shr.txt").write_text("{claims} in {regions}")
    own = prompt_of(SENTENCES, is_json=False, folder=tmp_path)
    assert own.version != prompt_of(SENTENCES, is_json=False).version
    assert own.render(CASE).startswith("1. A dog 2. fake.\n2. B. in [0.0, 0.0, 0.5, 0.25]: a")
    (tmp_path / "shr.txt").write_text("nothing")
    with pytest.raises(BadInput, match="no slot"):
        prompt_of(SENTENCES, is_json=False, folder=tmp_path)


def test_a_prompt_that_may_not_be_shipped_comes_from_a_users_folder(tmp_path):
    rubric = Rubric(name="other", read=lambda *_: [], slots=lambda case: {"a": "A"}, places=1)
    with pytest.raises(BadInput, match=r"other\.txt: no such prompt; judge_prompts names a folder"):
        prompt_of(rubric, is_json=False)
    (tmp_path / "other.txt").write_text("Rate {}.")
    assert prompt_of(rubric, is_json=False, folder=tmp_path).render(CASE) == "Rate A."
