"""A benchmark, and a backbone, are one new file each: nothing else is edited."""

import json
import os
import subprocess
import sys

import pytest

from hadpo import benchmarks, config, plugins, tables
from hadpo.benchmarks._tally import Benchmark, outcomes, tallies
from hadpo.judges import JudgeSettings, oracle, prompt_of, rule_all
from hadpo.judges.oracle.vocabulary import Vocabulary
from hadpo.records import Answer, BadInput, Evidence, Question

# No judge: photos are asked about in the words of a file of one's own.
EYES = '''
"""EYES: does an answer name what is in the photo? Pairs of questions count together, too."""

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally
from hadpo.config import STRICT, AtLeastOne
from hadpo.data import Sources, read_json
from hadpo.records import Answer, Question
from hadpo.text import words

READINGS = {"": "words"}
FILES = {"eyes": ("EYES", ("",))}
MEASURES = (
    Measure("hits", "EYES: objects named", better="higher"),
    Measure("whole", "EYES: photos with all answers right", better="higher"),
    Measure("both", "EYES: hits times length", "number", is_shared=False,
            of=lambda values: values["hits"] * values["length"]),
    Measure("length", "words of an answer", "number"),
    Measure("named", "answers that name one", "count", is_headline=False, is_shared=False),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    eyes: str = ""  # file of texts to ask about each photo


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    eyes_beams: AtLeastOne = 1  # 1: greedy
    eyes_max_new_tokens: AtLeastOne = 6  # of an answer
    eyes_least_words: AtLeastOne = 1  # shorter answers do not count


def questions(sources: Sources) -> list[Question]:
    texts = read_json(sources.note(sources.resolve(sources.data.eyes)), list, expected="texts")
    return [
        Question(
            question_id=f"eyes-{key}-{number}",
            benchmark="eyes",
            split=("first", "later")[number > 0],
            image_id=key,
            image=photo.image,
            text=text,
        )
        for key, photo in list(sources.photos.items())[:4]
        for number, text in enumerate(texts)
    ]


def tally(answer: Answer, known: Known) -> Tally:
    assert known.evidence is not None
    said = words(answer.text)
    counts = len(said) >= known.settings.eyes_least_words
    hit = any(name in said for name in known.evidence.objects)
    return {
        "hits": (hit and counts, counts),
        "length": (len(said), 1),
        "both": (0, 0),
        "named": (hit, 1),
    }


def group_tallies(answers: list[tuple[Answer, Known]]) -> dict[str, Tally]:
    photos: dict[str, list[tuple[str, bool]]] = {}
    for answer, known in answers:
        hit = bool(tally(answer, known)["hits"][0])
        photos.setdefault(answer.image_id, []).append((answer.question_id, hit))
    return {group[0][0]: {"whole": (all(h for _, h in group), 1)} for group in photos.values()}
'''
# Judged: a prompt, a reader of replies, and what annotations alone tell.
TRUTHS = '''
"""TRUTHS: a judge says from 0 to 3 how true an answer is."""

import re

from pydantic.dataclasses import dataclass

from hadpo.benchmarks import Known, Measure, Tally, only_verdict, together
from hadpo.config import STRICT
from hadpo.data import Sources
from hadpo.judges import Rubric, reply_schema
from hadpo.records import Answer, Case, Question, Verdict
from hadpo.text import words

READINGS = {"": "points"}
MEASURES = (Measure("truth", "TRUTHS: points (0-3)", "number", "higher", is_read=True),)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    truths_max_new_tokens: int = 5  # of an answer


def questions(sources: Sources) -> list[Question]:
    return [
        Question(question_id=f"truths-{key}", benchmark="truths", split="all", image_id=key,
                 image=photo.image, text="What is this?")
        for key, photo in list(sources.photos.items())[:4]
    ]


def cases(answers, questions, evidence, settings) -> list[Case]:
    return together(answers, questions, rubric="truths", seed=settings.evaluate_seed)


def _verdicts(case: Case, points: list[int | None]) -> list[Verdict]:
    return [
        Verdict(case_id=case.case_id, model=case.model_of(at), claim=claim, place=at + 1,
                label="unparsed" if value is None else "scored",
                scores={} if value is None else {"points": value})
        for at, (claim, value) in enumerate(zip(case.claims, points, strict=True))
    ]


def read(reply: str, case: Case) -> list[Verdict]:
    found = re.findall(r"^points: ([0-3])$", reply, flags=re.MULTILINE)
    whole = len(found) == len(case.claims)
    return _verdicts(case, [int(p) for p in found] if whole else [None] * len(case.claims))


def by_annotations(oracle, case: Case) -> list[Verdict]:
    return _verdicts(case, [min(3, len(words(claim))) for claim in case.claims])


RUBRICS = (
    Rubric(name="truths", prompt="{question}\\n{claims}\\n{format}", lines="Say: points: N",
           json="JSON", schema=reply_schema("points", points={"type": "integer"}), read=read,
           claim="Answer {number}: {claim}", by_annotations=by_annotations),
)


def tally(answer: Answer, known: Known) -> Tally:
    verdict = only_verdict(answer, known)
    return {"truth": (verdict.scores.get("points", 0), verdict.label == "scored")}
'''
# The same questions as EYES, in part: answered once.
AGAIN = '''
"""AGAIN: EYES once more, its first questions only."""

from dataclasses import replace

from hadpo.benchmarks import Measure
from hadpo.text import words

SAME_QUESTIONS_AS = "eyes"
READINGS = {"": "words"}
MEASURES = (Measure("length", "words of an answer, again", "number"),)


def questions(sources):
    from hadpo.benchmarks import eyes

    return [
        replace(q, question_id=f"again-{q.image_id}", benchmark="again", split="all")
        for q in eyes.questions(sources)
        if q.split == "first"
    ]


def tally(answer, known):
    return {"length": (len(words(answer.text)), 1)}
'''
BACKBONE = '''
"""LLaVA under another name, with a prompt of its own."""

from dataclasses import replace

from hadpo.backbones import llava
from hadpo.backbones.llava import OPTIONAL_PARTS, PARTS

_MINI = llava.VARIANTS["mini"]
VARIANTS = {"small": _MINI}


def from_original(files, *, variant, **options):
    return llava.from_original(files, variant="mini", **options)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of one's own plugins."""
    for place, text in (
        ("benchmarks/eyes.py", EYES),
        ("benchmarks/truths.py", TRUTHS),
        ("benchmarks/again.py", AGAIN),
        ("backbones/otherllava.py", BACKBONE),
    ):
        path = tmp_path / "plugins" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        assert len(text.splitlines()) < 90
    monkeypatch.setenv("HADPO_PLUGINS", str(tmp_path / "plugins"))
    yield tmp_path
    monkeypatch.undo()
    for name in ("eyes", "truths", "again"):
        sys.modules.pop(f"hadpo.benchmarks.{name}", None)
    plugins.available("hadpo.benchmarks")


def answered(benchmark, texts, model="base"):
    questions = [
        Question(
            question_id=f"{benchmark}-{number}",
            benchmark=benchmark,
            split=("first", "later")[number % 2],
            image_id=str(number // 2),
            image="x.png",
            text="What is this?",
        )
        for number in range(len(texts))
    ]
    answers = [
        Answer(
            question_id=q.question_id,
            benchmark=benchmark,
            split=q.split,
            model=model,
            image_id=q.image_id,
            text=text,
            tokens=3,
            finish="stop",
        )
        for q, text in zip(questions, texts, strict=True)
    ]
    return answers, questions


def settings(**more):
    return config.section_types()["evaluate"](**more)


def test_its_tallies_become_metrics_intervals_and_outcomes(folder):
    texts = ("a cup", "the dog", "cup", "nothing here", "cup", "a cup too")
    answers, questions = answered("eyes", texts)
    objects = {"objects": ("cup", "kite"), "image": "x.png", "width": 1, "height": 1}
    evidence = {key: Evidence(image_id=key, **objects) for key in "012"}
    found = benchmarks.score("eyes", answers, questions, (), evidence, settings=settings())
    rows = {(m.split, m.name): m for m in found}
    first, later = rows["first", "hits"], rows["later", "hits"]
    assert (first.value, first.n, later.value) == (1.0, 3, pytest.approx(1 / 3))
    assert later.low == 0.0 and later.high == 1.0
    assert (rows["later", "named"].value, rows["later", "named"].low) == (1.0, None)
    assert rows["later", "both"].value == pytest.approx(1 / 3 * 7 / 3)
    assert rows["first", "whole"].value == pytest.approx(1 / 3)
    assert rows["later", "unanswered"].value == 0
    strict = settings(eyes_least_words=2)
    found = benchmarks.score("eyes", answers, questions, (), evidence, settings=strict)
    assert next(m for m in found if m.name == "hits").n == 1
    benchmark = Benchmark.named("eyes")
    rows = tallies(benchmark, answers, questions, (), evidence, settings=settings())
    sums = {o.split: o.sums for o in outcomes(benchmark, rows, questions)}
    assert sums["first"].keys() == {"hits", "length", "whole"}
    assert sums["first"]["whole"] == ((0.0, 0.0, 1.0), (1.0, 1.0, 1.0))


def test_its_judge_is_its_own(folder):
    module = plugins.load("hadpo.benchmarks", "truths")
    answers, questions = answered("truths", ("a cup on a table", "cup", "", "two words"))
    asked = {q.question_id: q for q in questions}
    cases = module.cases(answers, asked, {}, settings())
    judge = oracle.make(vocabulary=Vocabulary(), settings=JudgeSettings(rubrics=module.RUBRICS))
    found = benchmarks.score("truths", answers, questions, rule_all(judge, cases))
    assert [m.value for m in found if m.name == "truth"] == [1.5, 1.5]
    [lost] = module.read("points: 9", cases[0])
    assert lost.label == "unparsed"
    replies = [module.read("points: 2", case)[0] for case in cases[1:]]
    found = benchmarks.score("truths", answers, questions, [lost, *replies])
    truth = next(m for m in found if m.name == "truth")
    assert (truth.value, truth.n, truth.n_unreadable) == (2.0, 1, 1)
    assert "Answer 1: a cup" in prompt_of(module.RUBRICS[0], is_json=False).render(cases[0])
    with pytest.raises(BadInput, match="not made for rubric truths"):
        oracle.make(vocabulary=Vocabulary()).rule(cases[0])


def test_its_titles_and_directions_stand_in_tables(folder):
    measure = tables.measure_of("eyes", "hits")
    assert (measure.title, measure.better) == ("EYES: objects named (%)", "higher")
    assert tables.measure_of("eyes", "length").title == "words of an answer"
    assert tables.measure_of("gone", "some_ratio").title == "some ratio (%)"


def test_what_a_benchmark_lacks_is_named(folder):
    (folder / "plugins" / "benchmarks" / "half.py").write_text("MEASURES = ()\n")
    with pytest.raises(BadInput, match=r"benchmark half: .*half\.py lacks questions, tally"):
        Benchmark.named("half")
    sys.modules.pop("hadpo.benchmarks.half")
    path = folder / "plugins" / "benchmarks" / "eyes.py"
    path.write_text(EYES.replace('Measure("length", "words of', 'Measure("lengths", "words of'))
    sys.modules.pop("hadpo.benchmarks.eyes", None)
    answers, questions = answered("eyes", ("a cup",))
    evidence = {"0": Evidence(image_id="0", image="", width=1, height=1)}
    with pytest.raises(BadInput, match="benchmark eyes: its tally has 'length', its MEASURES"):
        benchmarks.score("eyes", answers, questions, (), evidence, settings=settings())


def test_the_stages_run_with_it(folder):
    (folder / "texts.json").write_text(json.dumps(["What is in the image?", "Name one."]))
    (folder / "own.yaml").write_text(
        "extends: mini/llava-smoke\n"
        "model: {backbone: otherllava/small}\n"
        f"data: {{eyes: {folder / 'texts.json'}, mini_test_images: 6}}\n"
        "train: {steps: 2, controls: ''}\n"
        "evaluate: {benchmark_names: 'eyes,again,truths,pope', models: 'base,merged', "
        "questions_limit: 8, bootstrap_samples: 20, cut_control: false}\n"
    )
    surroundings = os.environ | {"HADPO_RUNS": str(folder / "runs")}
    command = [sys.executable, "-m", "hadpo", "run", str(folder / "own.yaml"), "--name", "own"]
    done = subprocess.run(
        [*command, "-p", "eyes_max_new_tokens=5"],
        capture_output=True,
        text=True,
        check=False,
        env=surroundings,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EYES: objects named" in done.stdout
    assert "TRUTHS: points (0-3)" in done.stdout
    evaluate = folder / "runs" / "own" / "evaluate"
    manifest = json.loads((evaluate / "manifest.json").read_text())
    assert manifest["settings"]["evaluate"]["eyes_max_new_tokens"] == 5
    decoding = json.loads((evaluate / "decoding.json").read_text())
    assert decoding["eyes"]["decoding"]["max_new_tokens"] == 5
    assert decoding["again"]["decoding"] == decoding["eyes"]["decoding"]
    answers = [json.loads(line) for line in (evaluate / "samples.jsonl").read_text().splitlines()]
    said = {(a["model"], a["question_id"]): a["text"] for a in answers}
    again = [a for a in answers if a["benchmark"] == "again"]
    assert len(again) == 2 * 4
    for answer in again:
        assert answer["text"] == said[answer["model"], f"eyes-{answer['image_id']}-0"]
    verdicts = (evaluate / "verdicts.jsonl").read_text().splitlines()
    assert len(verdicts) == 2 * 4
    wrong = subprocess.run(
        [*command[:-2], "--dry-run", "-p", "eyes_max_new_token=5"],
        capture_output=True,
        text=True,
        check=False,
        env=surroundings,
    )
    assert wrong.returncode == 2
    assert "did you mean 'eyes_max_new_tokens'" in wrong.stderr


test_the_stages_run_with_it = pytest.mark.slow(test_the_stages_run_with_it)
