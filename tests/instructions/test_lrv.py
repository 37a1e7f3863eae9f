from collections import Counter

import pytest

from hadpo.data import Report
from hadpo.instructions.lrv import FilterSettings, convert, filter_records, reword, surplus
from hadpo.records import BadInput, Instruction


def record(number=0, **fields):
    fields = {"instruction": "What is there?", "answer": "A cup."} | fields
    return Instruction(
        **{"image_id": "7", "image": "7.jpg", "kind": "positive", "source": "test"}
        | fields
        | {"instruction_id": str(number)}
    )


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            "There is no mention of a red fire truck in the given image information.",
            "There is no red fire truck in the image.",
        ),
        ("There is no dog mentioned in the image.", "There is no dog in the image."),
        (
            "There are no dogs mentioned in the provided captions.",
            "There are no dogs in the image.",
        ),
        (
            "There is no mention of any cake, so it has no colour.",
            "There is no cake in the image, so it has no colour.",
        ),
        ("The bounding box of the cup is small.", ""),
        ("The color is not mentioned.", ""),
        ("The vase is blue.", "The vase is blue."),
    ],
)
def test_answers_speak_of_the_image(said, meant):
    assert reword(said) == meant


@pytest.mark.parametrize(
    ("changed", "settings", "why"),
    [
        ({"answer": "At X:12 Y: 30 Width:5 Height:6."}, {}, "has coordinates"),
        ({"instruction": "What is in [0.1, 0.2, 0.3, 0.4]?"}, {}, "has coordinates"),
        ({"answer": "a " * 31}, {"max_answer_words": 30}, "answer of more than 30 words"),
        (
            {"instruction": "a " * 9},
            {"max_instruction_words": 8},
            "instruction of more than 8 words",
        ),
        ({"answer": "It is not mentioned."}, {}, "speaks of the teacher's text, not of the image"),
        ({"instruction": "what  is there"}, {}, "asked before of this image"),
    ],
)
def test_each_filter_drops_and_counts(changed, settings, why):
    report = Report()
    records = [record(0), record(1, **changed)]
    assert list(filter_records(records, FilterSettings(**settings), report)) == records[:1]
    assert report.counts == {f"instructions: {why}": 1}
    keep = FilterSettings(coordinates="keep", wording="keep", dedupe=False)
    assert list(filter_records(records, keep, Report())) == records


def test_the_same_question_about_two_images_is_two_questions():
    records = [record(0), record(1, image_id="8")]
    assert list(filter_records(records, FilterSettings(), Report())) == records


@pytest.mark.parametrize(("positive", "negative"), [(10, 40), (40, 10), (20, 20), (5, 0)])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_balance(positive, negative, share):
    kinds = ["positive"] * positive + ["negative"] * negative + ["chart"] * 3
    settings = FilterSettings(negative_share=share)
    gone = surplus(kinds, settings)
    left = Counter(k for i, k in enumerate(kinds) if i not in gone)
    assert left["chart"] == 3
    if negative:
        found = left["negative"] / (left["positive"] + left["negative"])
        assert found == pytest.approx(share, abs=0.02)
        assert left["positive"] == positive or left["negative"] == negative
    else:
        assert not gone
    assert surplus(kinds, settings) == gone


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="no instruction is left"):
        convert([record(answer="X: 3")], tmp_path, FilterSettings(), Report())
    assert not list(tmp_path.glob("*.part"))
