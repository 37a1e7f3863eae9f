"""The pictures of whole stages, on made-up runs opened as the notebooks open them."""

from pathlib import Path

import pytest
from PIL import Image

from hadpo import figures, tables
from hadpo.figures.cards import Pictures
from hadpo.records import Evidence, Pair, Question, Region, write_jsonl
from hadpo.runs import Run
from hadpo.runs.run import open_run


@pytest.fixture
def runs(tmp_path: Path, write_run, image: Path) -> Path:
    for seed in (1, 2):
        name = f"run-s{seed}"
        write_run(tmp_path, name, seed=seed)
        known = [
            Evidence(image_id=str(i), image=str(image), width=48, height=32) for i in range(20)
        ]
        write_jsonl(tmp_path / name / "prepare" / "evidence.jsonl", known)
    return tmp_path


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, name: str, **given) -> Run:
    monkeypatch.setenv("HADPO_RUNS", str(folder))
    return open_run("compare", recipe, name, given)


def names(run: Run) -> set[str]:
    return {path.name for path in (run.folder / "figures").iterdir()}


def test_one_run_has_all_pictures_of_the_comparison(runs: Path, monkeypatch):
    run = opened(runs, monkeypatch, "mini/llava", "run-s1")
    gallery = figures.compare(run, tables.compare(run))
    assert [p.name for p in gallery.pictures] == [
        "dumbbell",
        "pope_bars",
        "shr_bars",
        "shr_length",
        "training_curves",
        "hallucination_card",
    ]
    drawn, card = gallery.pictures[:-1], gallery.pictures[-1]
    assert names(run) == {f"{p.name}.{form}" for p in drawn for form in ("png", "svg", "csv")} | {
        "hallucination_card.png",
        "hallucination_card.html",
    }
    stages = runs / "run-s1"
    best = figures.hallucination_cards(stages / "evaluate", stages / "prepare", count=1).pictures[0]
    assert card.title == best.title and "fewer wrong" in card.title
    assert "run-s1 the one that gained most" in card.note and tables.MINI in card.note
    with Image.open(run.folder / "figures" / "hallucination_card.png") as picture:
        assert picture.format == "PNG" and picture.width > 900
    assert gallery._repr_html_().count("<img") == 6
    missing = "run 'run-s1' has no vocabulary.json"  # nor has the made-up run
    assert gallery.missing == [f"invented objects, {m}: {missing}" for m in ("base", "merged")]
    assert set(run.manifest.facts["figures"]) == names(run)


def test_several_runs_share_their_curves(runs: Path, monkeypatch):
    run = opened(runs, monkeypatch, "mini/llava", "both", run_names="run-s1,run-s2")
    gallery = figures.compare(run, tables.compare(run))
    curves = next(p for p in gallery.pictures if p.name == "training_curves")
    assert {row["line"] for row in curves.data} == {"run-s1 dpo", "run-s2 dpo"}
    rows = gallery.pictures[0].data
    assert len(rows) == 8  # four measures, of which two in three splits; means over the runs


def test_published_numbers_alone_have_a_picture(tmp_path: Path, monkeypatch):
    run = opened(tmp_path, monkeypatch, "reported", "reported")
    gallery = figures.compare(run, tables.compare(run))
    assert [p.name for p in gallery.pictures] == ["published"]
    rows = gallery.pictures[0].data
    assert len(rows) == 15  # HA-DPO: nine of POPE and three of SHR; LRV V1 by a user: three of POPE
    assert all(r["tuned"] <= 1 for r in rows)  # no score of GAVIE among the percents
    shr = [r for r in rows if (r["backbone"], r["benchmark"]) == ("llava-1.5-7b", "shr")]
    assert [(r["base"], r["tuned"]) for r in shr] == [pytest.approx((0.367, 0.340))]


def test_what_was_not_evaluated_is_named_and_not_drawn(runs: Path, monkeypatch):
    path = runs / "run-s1" / "evaluate" / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines(keepends=True) if '"pope"' in line]
    path.write_text("".join(lines))
    (runs / "run-s1" / "train" / "metrics.jsonl").unlink()
    (runs / "run-s1" / "evaluate" / "verdicts.jsonl").unlink()
    run = opened(runs, monkeypatch, "mini/llava", "run-s1")
    gallery = figures.compare(run, tables.compare(run))
    assert [p.name for p in gallery.pictures] == ["dumbbell", "pope_bars"]
    assert [m.split(":")[0] for m in gallery.missing] == [
        "SHR",
        "length",
        "invented objects, base",
        "invented objects, merged",
        "curves",
        "card",
    ]
    assert "no SHR among the metrics" in gallery._repr_html_()


def test_the_card_is_of_the_images_of_the_run_that_was_started_from(
    runs: Path, write_run, monkeypatch
):
    write_run(runs, "again", seed=5, earlier="run-s1")
    run = opened(runs, monkeypatch, "mini/llava", "again")
    gallery = figures.compare(run, tables.compare(run))
    assert gallery.pictures[-1].name == "hallucination_card"
    assert all("vocabulary.json" in m for m in gallery.missing)  # the made-up run has none
    (runs / "run-s1" / "prepare" / "evidence.jsonl").unlink()
    gallery = figures.compare(run, tables.compare(run))
    assert gallery.missing[-1].startswith("card: ")


def test_a_note_of_what_was_not_drawn_is_text_and_not_markup():
    page = Pictures((), ["SHR: no file <script>alert(1)</script> & more"])._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "<script" not in page


def test_cards_of_an_evaluation_are_the_best_and_the_worst(runs: Path):
    stage, prepared = runs / "run-s1" / "evaluate", runs / "run-s1" / "prepare"
    gallery = figures.hallucination_cards(stage, prepared, count=1)
    titles = [card.title for card in gallery.pictures]
    assert len(titles) == 2 and "fewer" in titles[0]
    assert tables.MINI in gallery._repr_html_()
    (stage / "verdicts.jsonl").unlink()
    assert "No description was judged" in (
        figures.hallucination_cards(stage, prepared)._repr_html_()
    )


def pairs(image: Path) -> list[Pair]:
    texts = [("A red cup.", "A red cup. A dog."), ("A dog sits.", "A cat sits.")]
    return [
        Pair(
            pair_id=str(i),
            image_id="1",
            image=str(image),
            instruction="Describe.",
            chosen=chosen,
            rejected=rejected,
            kind="description",
            source="mined",
        )
        for i, (chosen, rejected) in enumerate(texts)
    ]


def test_pair_cards_take_a_note_each(image: Path):
    cards = figures.pair_cards(pairs(image), notes=["margin +1.0", "margin -2.0"]).pictures
    assert [card.title for card in cards] == ["margin +1.0: Describe.", "margin -2.0: Describe."]
    assert len(figures.pair_cards(pairs(image)).pictures) == 2


def test_evidence_cards_show_boxes_and_facts(image: Path):
    region = Region(x=1, y=1, width=9, height=9, phrase="a cup")
    facts = ("It rains.",)
    known = Evidence(
        image_id="5", image=str(image), width=48, height=32, regions=(region,), facts=facts
    )
    (card,) = figures.evidence_cards([known]).pictures
    page = card._repr_html_()
    assert "1 a cup" in page and "It rains." in page and "1 regions, 1 facts" in page


def test_question_sheet_shows_the_right_answers(image: Path):
    question = Question(
        question_id="1",
        benchmark="pope",
        split="random",
        image_id="1",
        image=str(image),
        text="Is there a cup?",
        label="yes",
    )
    assert "Is there a cup? (yes)" in figures.question_sheet([question]).alt


def test_lengths_say_how_much_shorter_the_chosen_are(image: Path):
    figure = figures.length_figure(pairs(image))
    assert [(r["chosen_words"], r["rejected_words"]) for r in figure.data] == [(3, 5), (3, 3)]
    assert "25.0% shorter" in figure.title
    assert "no lengths to compare" in figures.length_figure([]).title


def test_style_says_what_else_than_truth_tells_the_sides_apart():
    rows = [
        {"pair_id": "1", "words_chosen": 10, "words_rejected": 12, "shared_2": 0.5}
        | {"perplexity_chosen": 4.0, "perplexity_rejected": 2.0},
        {"pair_id": "2", "words_chosen": 8, "words_rejected": 8, "shared_2": 1.0}
        | {"perplexity_chosen": 3.0, "perplexity_rejected": 3.5},
    ]
    figure = figures.style_figure(rows)
    assert "word" in figure.title and "likelier" in figure.alt
    assert len(figure.data) == 2 and figure.png()
    texts_only = [{k: v for k, v in row.items() if "perplexity" not in k} for row in rows]
    assert figures.style_figure(texts_only).png()
    assert "No description pairs" in figures.style_figure([]).title
    assert figures.style_figure([]).png()
    assert figures.question_sheet([]).title == "No questions"
