from pathlib import Path

import pytest
from PIL import Image

from hadpo.figures import contact_sheet, hallucination_card, pair_card
from hadpo.figures.cards import best_and_worst
from hadpo.records import BadInput, Evidence, Pair, Region, Verdict
from hadpo.tables import MINI


def verdict(claim: str, label="correct", *, model="base", case="shr-1", kind="", reason=""):
    return Verdict(case_id=case, model=model, claim=claim, label=label, kind=kind, reason=reason)


def two_models() -> list[Verdict]:
    return [
        verdict("A red <b>cup</b> & more."),
        verdict("A dog.", "hallucination", kind="absent", reason='no "dog" here'),
        verdict("It is calm.", "cannot judge"),
        verdict("A red cup.", model="merged"),
    ]


def pixels(data: Path) -> Image.Image:
    with Image.open(data) as image:
        return image.convert("RGB")


def test_a_card_marks_by_sign_and_colour_and_escapes(image: Path):
    page = hallucination_card(image, two_models())._repr_html_()
    assert "A red &lt;b&gt;cup&lt;/b&gt; &amp; more." in page and "<b>cup" not in page
    assert page.count("✓</b>") == 2 and page.count("✗</b>") == 1 and page.count("?</b>") == 1
    assert 'title="absent: no &#34;dog&#34; here"' in page
    assert "base: 1 of 3 wrong" in page and "tuned: 0 of 1 wrong" in page
    assert "#d55e00" in page and "http" not in page


def test_a_wrong_attribute_is_not_called_invented(image: Path):
    found = [
        verdict("The cup is red.", "hallucination", kind="attribute"),
        verdict("There is a dog.", "hallucination", kind="absent"),
    ]
    card = hallucination_card(image, found)
    page = card._repr_html_()
    assert card.title == "Base: 2 of 2 wrong." and "invented" not in page
    assert [line.label for line in card.columns[0].lines] == ["wrong attribute", "absent object"]


def test_a_card_draws_the_boxes_and_names_them(image: Path, tmp_path: Path):
    region = Region(x=4, y=4, width=20, height=20, phrase="a <cup>")
    plain = hallucination_card(image, two_models())
    boxed = hallucination_card(image, two_models(), regions=[region] * 12, most_regions=2)
    assert boxed.png() != plain.png()
    # 48 pixels become 300: the left edge of the box stands at 4 * 300 / 48 = 25
    assert boxed.image.getpixel((25, 100)) == (11, 98, 168)
    assert "1 a <cup>; 2 a <cup>; 10 more regions" in boxed.note
    assert "a &lt;cup&gt;" in boxed._repr_html_()


def test_a_card_saves_the_same_bytes_each_time(image: Path, tmp_path: Path):
    first = hallucination_card(image, two_models()).save(tmp_path / "one")
    second = hallucination_card(image, two_models()).save(tmp_path / "two")
    assert [p.name for p in first] == ["card_shr-1.png", "card_shr-1.html"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    picture = pixels(first[0])
    assert picture.width > 900 and picture.height > 200
    assert (253, 235, 220) in set(
        picture.get_flattened_data()
    )  # the ground of an invented sentence


def test_a_card_tells_itself_in_words_and_says_mini(image: Path):
    card = hallucination_card(image, two_models()).as_mini()
    assert "[✗] A dog." in card.alt and "[✓] A red cup." in card.alt
    assert MINI in card._repr_html_()
    assert card._repr_png_()[1]["alt"] == card.alt


def test_a_card_needs_an_image_and_verdicts(image: Path, tmp_path: Path):
    with pytest.raises(BadInput, match=r"no image .*gone\.png"):
        hallucination_card(tmp_path / "gone.png", two_models())
    with pytest.raises(
        BadInput, match=r"no verdicts of base, merged; there are those of \['sft'\]"
    ):
        hallucination_card(image, [verdict("A cup.", model="sft")])


def test_pair_card_marks_only_what_differs(image: Path):
    pair = Pair(
        pair_id="7",
        image_id="1",
        image=str(image),
        instruction="Describe <it>.",
        chosen="A red cup stands there.",
        rejected="A green cup stands there today.",
        kind="description",
        source="mined",
    )
    card = pair_card(pair)
    marked = [[w for w, is_marked in column.lines[0].words if is_marked] for column in card.columns]
    assert marked == [["red", "there."], ["green", "there", "today."]]
    page = card._repr_html_()
    assert page.count("line-through") == 3 and page.count("underline") == 2
    assert "Describe &lt;it&gt;." in page and "description pair 7 from mined" in page


def test_best_and_worst_come_in_this_order(image: Path):
    cases = {"better": (3, 0), "same": (1, 1), "worse": (0, 2)}
    verdicts = [
        verdict(f"Claim {k}.", "hallucination" if k < count else "correct", model=model, case=case)
        for case, counts in cases.items()
        for model, count in zip(("base", "merged"), counts, strict=True)
        for k in range(4)
    ]
    evidence = {
        case: Evidence(image_id=case, image=str(image), width=48, height=32) for case in cases
    }
    found = best_and_worst(verdicts, evidence, count=1)
    assert [card.title for card in found.pictures] == [
        "Image better: 3 fewer wrong sentences after tuning",
        "Image worse: 2 more wrong sentences after tuning",
    ]
    assert found._repr_html_().count("<img") == 2
    assert len(best_and_worst(verdicts, evidence, count=9).pictures) == 3  # each is shown once
    nothing = best_and_worst([v for v in verdicts if v.model == "base"], evidence)
    assert not nothing.pictures and "for both base and merged" in nothing._repr_html_()


def test_contact_sheet_is_a_grid_with_captions(image: Path):
    sheet = contact_sheet([image] * 5, [f"caption {i} " * 9 for i in range(5)], columns=2)
    assert sheet.image.size == (2 * 160, 3 * (150 + 34 + 10))
    assert "caption 4" in sheet.alt and "caption 4" in sheet._repr_html_()
    assert sheet.image.getpixel((75, 75)) == (90, 140, 200)
    with pytest.raises(BadInput, match="5 images and 1 captions"):
        contact_sheet([image] * 5, ["one"])


def test_only_what_is_somewhere_has_a_box(image: Path):
    with Image.open(image) as file:
        width, height = file.size
    places = [
        Region(x=1, y=1, width=2, height=2, phrase="a red cup at the top left"),
        Region(x=3, y=1, width=2, height=2, phrase="the top right is empty"),
        Region(x=0, y=0, width=width, height=height, phrase="the scene is a kitchen"),
    ]
    card = hallucination_card(image, two_models(), regions=places)
    assert "Boxes: 1 a red cup at the top left." in card.note
    assert "empty" not in card.note and "scene" not in card.note and "more regions" not in card.note


def test_the_best_the_median_and_the_worst_are_named(image: Path):
    evidence, verdicts = {}, []
    for case, (before, after) in enumerate([(3, 0), (2, 1), (1, 1), (0, 1), (0, 2)]):
        evidence[str(case)] = Evidence(image_id=f"i{case}", image=str(image), width=9, height=9)
        for model, wrong in (("base", before), ("merged", after)):
            labels = ["hallucination"] * wrong + ["correct"]
            verdicts += [
                Verdict(case_id=str(case), model=model, claim=f"{at}", label=label)
                for at, label in enumerate(labels)
            ]
    titles = [c.title for c in best_and_worst(verdicts, evidence, count=1, median=True).pictures]
    assert titles == [
        "The best of 5 descriptions. Image i0: 3 fewer wrong sentences after tuning",
        "The median of 5 descriptions. Image i2: as many wrong sentences after tuning as before",
        "The worst of 5 descriptions. Image i4: 2 more wrong sentences after tuning",
    ]
