"""The prompts that judges get: regions as the original shows them, every slot filled, versions."""

import json

import pytest

from hadpo.judges._rubrics import PROMPTS, SCHEMAS, case_mark, read_rubric, relative_boxes
from hadpo.records import BadInput, Case, Evidence, Region

BOX = Region(x=0, y=0, width=50, height=25, phrase="a {facts} dog")
EVIDENCE = Evidence(image_id="1", image="", width=100, height=100, regions=(BOX,), facts=("So.",))
CASE = Case(
    case_id="1", model="m", claims=("A dog\n2. fake.", "B."), evidence=EVIDENCE, question="What?"
)


def test_regions_are_those_of_the_original(shared):
    golden = json.loads((shared / "golden/shr/shr_cases.json").read_text())["get_desc"]
    size = golden["input"]["id2img"]["7"]
    regions = tuple(
        Region(**{k: float(v) if k != "phrase" else v for k, v in region.items()})
        for region in golden["input"]["id2reg"]["7"]["regions"]
        if region["phrase"]  # the reader leaves empty phrases out, as the original does
    )
    evidence = Evidence(image_id="7", image="", **size, regions=regions)
    assert relative_boxes(evidence) + "\n" == golden["result"]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
@pytest.mark.parametrize("is_json", [True, False])
def test_every_slot_is_filled_once(name, is_json):
    rubric = read_rubric(name, is_json=is_json)
    text = rubric.render(CASE)
    shows_regions = name != "gqa"  # an examiner goes by the right answer
    assert ("a {facts} dog" in text) == shows_regions  # what is filled in is not filled again
    assert text.count("{") == shows_regions
    assert (case_mark(CASE) in text) == is_json
    assert "A dog 2. fake." in text  # a newline inside a claim does not make two of it
    assert (rubric.schema is not None) == is_json
    assert read_rubric(name, is_json=not is_json).version != rubric.version


def test_a_prompt_of_ones_own_has_its_own_version(tmp_path):
    (tmp_path / "shr.txt").write_text("{claims} in {regions}")
    mine = read_rubric("shr", is_json=False, folder=tmp_path)
    assert mine.version != read_rubric("shr", is_json=False).version
    assert mine.render(CASE).startswith("1. A dog 2. fake.\n2. B. in [0.0, 0.0, 0.5, 0.25]: a")
    (tmp_path / "shr.txt").write_text("nothing")
    with pytest.raises(BadInput, match="no slot"):
        read_rubric("shr", is_json=False, folder=tmp_path)


def test_each_prompt_has_both_forms():
    names = {path.name.partition(".")[0] for path in PROMPTS.glob("*.txt")}
    assert names == SCHEMAS.keys()
    for name in names:
        assert {p.name for p in PROMPTS.glob(f"{name}.*txt")} == {
            f"{name}.txt",
            f"{name}.json.txt",
            f"{name}.lines.txt",
        }
