import json
import os
from pathlib import Path

import pytest

from hadpo.judges._sentences import read_upstream
from hadpo.records import Case, Evidence
from hadpo.text import sentences

SHARED = Path(os.environ.get("HADPO_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "shr" / "shr_cases.json"
EVIDENCE = Evidence(image_id="1", image="", width=1, height=1)


def case_of(response):
    claims = tuple(sentences(response))
    return Case(case_id="1", model="base", claims=claims, evidence=EVIDENCE)


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"no {GOLDEN}")
def test_replies_are_read_as_the_original_reads_them():
    cases = json.loads(GOLDEN.read_text())["cases"]
    assert cases
    for each in cases:
        verdicts = read_upstream(each["judge"], case_of(each["model_response"]))
        expected = each["post_process_no_revise"]
        if "error" in expected:  # the original dies where no line says "Judgement:"
            assert {v.label for v in verdicts} <= {"unparsed"}, each["name"]
            continue
        for verdict, one in zip(verdicts, expected["result"], strict=True):
            assert verdict.claim + "." == one["model_response"]
            known = one["classification"] in ("hallucination", "correct", "cannot judge")
            assert verdict.label == (one["classification"] if known else "unparsed"), each["name"]
            assert verdict.raw == (one["judgement"] or "")


def test_two_sentences_by_hand():
    case = case_of("A dog. A cat.")
    found = read_upstream("Judgement:\n1. correct: yes\n2. Hallucination: no cat", case)
    assert [(v.label, v.reason) for v in found] == [("correct", "yes"), ("hallucination", "no cat")]
    found = read_upstream("Judgement:\n1. correct: yes\n2. Hallucination - why", case)
    assert [(v.label, v.raw) for v in found][1] == ("unparsed", "Hallucination - why")
    assert {v.label for v in read_upstream("Judgement: 1. correct: yes", case)} == {"unparsed"}
