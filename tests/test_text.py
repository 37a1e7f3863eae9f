import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hadpo import text

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[2] / "shared"))
GOLDEN_SHR = SHARED / "golden" / "shr" / "shr_cases.json"
GOLDEN_POPE = SHARED / "golden" / "pope" / "expected.json"
needs_shr = pytest.mark.skipif(not GOLDEN_SHR.is_file(), reason=f"no {GOLDEN_SHR}")
needs_pope = pytest.mark.skipif(not GOLDEN_POPE.is_file(), reason=f"no {GOLDEN_POPE}")

# The worked examples of the original POPE reading, and what the strict reading makes of them.
READINGS = [
    ("No", "no", "no"),
    ("no", "no", "no"),
    ("NO", "yes", "no"),
    ("No, there is no car.", "no", "no"),
    ("No</s>", "yes", "no"),
    ("No, there is no car in the image.</s>", "no", "no"),
    ("no\n", "yes", "no"),
    ("No\nThere is no car", "no", "no"),
    ("There is\nno car", "yes", None),
    ("Not really", "yes", None),
    ("It is not visible", "no", None),
    ("I cannot see one", "yes", None),
    ("There isn't a car", "yes", None),
    ("There are none", "yes", None),
    ("Nope", "yes", None),
    ("nobody", "yes", None),
    ("Unclear", "yes", None),
    ("Yes, there is no doubt", "no", "yes"),
    ("Yes. But no car is visible.", "yes", "yes"),
    ("The answer is: no", "no", None),
    ("Answer:no", "yes", None),
    ("no!", "yes", "no"),
    ("No;", "yes", "no"),
    ("(no)", "yes", "no"),
    ('"No"', "yes", "no"),
    ("*no*", "yes", "no"),
    ("no-one", "yes", "no"),
    ("yes,no", "yes", "yes"),
    ("yes, no", "no", "yes"),
    (". No", "yes", "no"),
    ("1. No", "yes", None),
    ("Dr. Smith is not here", "yes", None),
    ("There are cars\tno", "yes", None),
    (" No", "no", "no"),
    ("", "yes", None),
    ("   ", "yes", None),
    ("not", "no", None),
    ("ye", "yes", None),
    ("<s>YES!</s>", "yes", "yes"),
]


@pytest.mark.parametrize(("answer", "upstream", "strict"), READINGS)
def test_both_readings_of_yes_and_no(answer, upstream, strict):
    assert text.yes_no_upstream(answer) == upstream
    assert text.yes_no_strict(answer) == strict


@needs_pope
def test_upstream_reading_equals_the_recorded_one():
    cases = json.loads(GOLDEN_POPE.read_text())["single_answer_parse"]
    assert len(cases) >= 40
    for case in cases:
        assert text.yes_no_upstream(case["answer"]) == case["pred"], case


@needs_shr
def test_sentences_equal_the_recorded_ones():
    cases = json.loads(GOLDEN_SHR.read_text())["cases"]
    assert len(cases) >= 20
    for case in cases:
        response = case["model_response"]
        kept = text.sentences(response)
        assert [s + "." for s in kept] == case["seg_cap"]["result"], case["name"]
        listed, dropped = case["get_model_cap"]["result"]
        assert "".join(f"{i}. {s}\n" for i, s in enumerate(kept, start=1)) == listed
        assert (text.repeated_segments(response, "upstream") > 0) == dropped


@needs_shr
def test_distinct_equals_the_recorded_repetition():
    golden = json.loads(GOLDEN_SHR.read_text())
    cases = [(c["text"], c) for c in golden["repetition"]]
    cases += [(c["model_response"], c["cal_repetition"]) for c in golden["cases"]]
    assert len(cases) >= 20
    for response, case in cases:
        for length in (1, 2, 3, 4):
            assert text.distinct(response, length) == case[str(length)].get("result"), response


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("A dog. A dog sits. Really? Yes.", ["A dog", "A dog sits", "Really? Yes"]),
        ("A dog sits. A dog. Mr. Smith pays 3.5 dollars", ["A dog sits", "Mr", "Smith pays 3"]),
        ("...", []),
    ],
)
def test_segmentation_by_hand(response, expected):
    assert text.sentences(response)[: len(expected)] == expected


TEXTS = st.lists(st.sampled_from(["A", "dog", ".", ". ", " ", "\n", "B c"]), max_size=30).map(
    "".join
)


@given(TEXTS, st.integers(0, 6))
def test_first_sentences_keeps_exactly_the_first(response, count):
    cut = text.first_segments(response, count, "upstream")
    assert text.sentences(cut) == text.sentences(response)[:count]
    assert response.startswith(cut)


@given(TEXTS)
def test_segmentation_is_a_fixed_point(response):
    kept = text.sentences(response)
    assert text.sentences(". ".join(kept)) == kept


def test_words_articles_and_plurals():
    assert text.word_count("two  spaces") == 3
    assert text.words("A red-hot cup, isn't it?") == ["a", "red", "hot", "cup", "isn't", "it"]
    assert [text.article(n) for n in ("umbrella", "car", "Orange")] == ["an", "a", "an"]
    assert {"bus", "buses"} <= text.forms("bus")
    assert {"berry", "berries"} <= text.forms("berry")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("A dog. A cat!", ["A dog.", "A cat!"]),
        ("Mr. Smith is 3.5 m tall. Is he?", ["Mr. Smith is 3.5 m tall.", "Is he?"]),
        ("1. A dog.\n2. A cat.", ["1. A dog.", "2. A cat."]),
        ("A dog\n\nA cat", ["A dog", "A cat"]),
        ('It says "Stop." A cat', ['It says "Stop."', "A cat"]),
        ("A dog. A dog sits. a DOG.", ["A dog.", "A dog sits."]),
        ("Wait... what?! Yes", ["Wait...", "what?!", "Yes"]),
        ("... !", []),
        ("", []),
        ("At 5 p.m. it rains. Fin", ["At 5 p.m. it rains.", "Fin"]),
        ("www.a.com is open.", ["www.a.com is open."]),
    ],
)
def test_sentences_by_grammar(said, expected):
    assert text.segments(said, "grammar") == expected
    if expected:
        assert text.segmentation_of(expected, said) in ("upstream", "grammar")


def test_the_beginning_by_grammar_keeps_repeated_sentences():
    said = "A dog is 1.5 m. A cat! A dog is 1.5 m. A cow."
    assert text.first_segments(said, 2, "grammar") == "A dog is 1.5 m. A cat! A dog is 1.5 m."
    assert text.first_segments(said, 9, "grammar") == said
    assert text.repeated_segments(said, "grammar") == 1
    assert text.segmentation_of(["A dog is 1.5 m."], said) is None


def test_a_template_is_filled_in_one_pass():
    template = 'Say {what} about {whom}; answer {"like": "{other}"}. {what}'
    found = text.fill(template, what="{whom}", whom=r"\1 {what}")
    assert found == r'Say {whom} about \1 {what}; answer {"like": "{other}"}. {whom}'


def test_a_field_of_a_reply_with_two_values_has_none():
    reply = '{"verdicts": [{"label": "a", "label": "b"}, {"label": "c", "label": "c"}]}'
    assert text.json_object(reply, "verdicts") == {"verdicts": [{"label": None}, {"label": "c"}]}
