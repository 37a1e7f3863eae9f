"""What is invented, by length and by object, counted by hand on a few cases."""

import dataclasses
from pathlib import Path

import pytest

from hadpo.figures import margin_histogram
from hadpo.figures.bars import invented_objects, length_against_hallucination
from hadpo.records import BadInput, Evidence, Pair, Region, Verdict
from hadpo.tables import MINI, read_results


def evidence(image_id: str, *objects: str, phrase: str = "") -> Evidence:
    regions = (Region(x=0, y=0, width=1, height=1, phrase=phrase),) if phrase else ()
    return Evidence(
        image_id=image_id, image="x.png", width=9, height=9, objects=objects, regions=regions
    )


def verdict(case: str, claim: str, label: str = "hallucination", model: str = "base") -> Verdict:
    return Verdict(case_id=case, model=model, claim=claim, label=label)


KNOWN = {
    "1": evidence("1", "cup", "ball"),
    "2": evidence("2", phrase="two red cups on a table"),
    "3": evidence("3", "ball"),
    "4": evidence("4"),  # nothing known: left out
}
RULED = [
    verdict("1", "A blue hat is near."),
    verdict("1", "The ball is green."),  # wrong, but the ball is there: no invention
    verdict("2", "There are hats and a kite."),
    verdict("3", "A kite.", "correct"),
    verdict("4", "A hat."),
    verdict("1", "A kite.", model="merged"),
]
OBJECTS = ("cup", "ball", "hat", "kite")


def test_inventions_are_counted_by_object_and_beside_which_real_one():
    figure = invented_objects(RULED, KNOWN, OBJECTS)
    cells = {(row["invented"], row["beside"]): (row["times"], row["images"]) for row in figure.data}
    assert cells == {
        ("hat", "cup"): (2, 2),
        ("hat", "ball"): (1, 2),
        ("kite", "cup"): (1, 2),
        ("kite", "ball"): (0, 2),
    }
    assert figure.title == "The base invents hat most."  # of two images nothing more is said
    heat = figure.drawing.axes[0]
    said = [f"{100 * row['share']:.0f} of {row['images']}" for row in figure.data]
    found = [text.get_text() for text in heat.texts]
    assert [" ".join(pair) for pair in zip(found[::2], found[1::2], strict=True)] == said
    assert heat.images[0].get_array().mask.all()  # and no colour
    assert "hat 2 times" in figure.alt
    tuned = invented_objects(RULED, KNOWN, OBJECTS, model="merged")
    assert {row["invented"] for row in tuned.data} == {"kite"}
    assert tuned.name == "invented_objects_merged"


def test_a_share_of_many_images_is_said_and_coloured():
    known = {f"{i}-{key}": each for i in range(20) for key, each in KNOWN.items()}
    ruled = [dataclasses.replace(v, case_id=f"{i}-{v.case_id}") for i in range(20) for v in RULED]
    known["5"] = evidence("5", "house")
    ruled.append(verdict("5", "A kite."))
    figure = invented_objects(ruled, known, (*OBJECTS, "house"))
    assert "; beside cup it invents hat in 100.0 % of 40 images" in figure.title
    colours = figure.drawing.axes[0].images[0].get_array()
    names = {(r["invented"], r["beside"]): r["images"] for r in figure.data}
    assert [bool(hidden) for hidden in colours.mask.flat] == [n < 20 for n in names.values()]
    assert names["kite", "house"] == 1


def test_pictures_are_the_same_bytes_twice():
    one, other = (invented_objects(RULED, KNOWN, OBJECTS) for _ in range(2))
    assert (one.png(), one.svg(), one.csv()) == (other.png(), other.svg(), other.csv())


def test_a_model_that_invents_nothing_has_a_picture_and_no_evidence_is_named():
    right = [verdict("1", "A cup.", "correct")]
    assert "invents no object" in invented_objects(right, KNOWN, OBJECTS).title
    with pytest.raises(BadInput, match="no judged image of 'base'"):
        invented_objects([verdict("4", "A hat.")], KNOWN, OBJECTS)


def test_length_stands_against_the_share_of_each_image(runs_folder: Path):
    result = read_results("run-s1", runs_folder)
    figure = length_against_hallucination(result)
    base = [row for row in figure.data if row["model"] == "base"]
    assert len(base) == 20 and {row["model"] for row in figure.data} == {"base", "merged"}
    share = sum(row["hallucinated_sentence_ratio"] for row in base) / 20
    assert share == pytest.approx(
        result.value(("shr", "val", "hallucinated_sentence_ratio", "base")), abs=1e-9
    )
    assert {row["words"] for row in base} == {42.0}  # six claims of seven words
    assert figure.png().startswith(b"\x89PNG")


@pytest.fixture
def runs_folder(tmp_path: Path, write_run) -> Path:
    write_run(tmp_path, "run-s1")
    return tmp_path


def test_margins_are_counted_in_bins_and_their_sign_is_the_message():
    figure = margin_histogram({"a": [-0.5, 0.5, 1.0, 1.5], "b": [0.2, 0.3]}).as_mini()
    assert figure.title == "Held-out pairs the right way round: a 75.0 %, b 100.0 %."
    assert sum(row["pairs"] for row in figure.data if row["run"] == "a") == 4
    assert sum(row["pairs"] for row in figure.data if row["run"] == "b") == 2
    assert MINI in "".join(text.get_text() for text in figure.drawing.texts)


def test_margins_come_with_their_pairs_and_may_be_none_or_not_finite():
    pair = Pair(
        pair_id="1",
        image_id="1",
        image="x.png",
        instruction="?",
        chosen="a",
        rejected="b",
        kind="description",
        source="made up",
    )
    figure = margin_histogram([(pair, 0.5), (pair, -0.1), (pair, float("nan"))])
    assert figure.title.endswith("50.0 %.") and sum(row["pairs"] for row in figure.data) == 2
    assert "Not finite and not drawn: 1" in "".join(t.get_text() for t in figure.drawing.texts)
    pope = dataclasses.replace(pair, kind="pope")
    kinds = margin_histogram([(pair, 0.5), (pair, -0.1), (pope, 1.0), (pope, 2.0)])
    assert kinds.title == (
        "Held-out pairs the right way round: 75.0 % of 4 (description 50.0 %, pope 100.0 %)."
    )
    assert "n pairs: description 2, pope 2" in " ".join(t.get_text() for t in kinds.drawing.texts)
    nothing = margin_histogram([])
    assert nothing.title.startswith("No pair was held out") and nothing.png()
