from dataclasses import replace

import pytest

from hadpo.figures import Figure, pope_bars, score_bars
from hadpo.figures.bars import dumbbell
from hadpo.records import BadInput
from hadpo.tables import RunResults, comparison, read_reported


def results(metrics) -> RunResults:
    return RunResults(
        name="a",
        recipe="mini/llava",
        is_mini=True,
        metrics={(m.benchmark, m.split, m.name, m.model): m for m in metrics},
        settings={"model": {"backbone": "llava/mini"}},
    )


def shr_bars(metrics) -> Figure:
    return score_bars(metrics, "shr")


def texts(figure) -> list[str]:
    return [t.get_text() for axes in figure.drawing.axes for t in axes.texts]


def test_pope_bars_hold_the_confusion_matrix(metrics):
    figure = pope_bars(metrics)
    assert len(figure.data) == 4
    row = figure.data[0]
    assert (row["split"], row["model"], row["true_positives"]) == ("random", "base", 55.0)
    assert row["yes_ratio"] == pytest.approx((55 + 20) / 120)
    bars = figure.drawing.axes[0].patches
    assert len(bars) == 16 and sum(b.get_width() for b in bars) == pytest.approx(4)
    assert "random, n 120" in texts(figure)
    assert any(t.startswith("20, 5; 79.2 % [76.2, 82.2]") for t in texts(figure))
    assert "from 60.8 % to" not in figure.title and "accuracy goes from 55.8 %" in figure.title


def test_wrong_answers_are_hatched_not_only_coloured(metrics):
    bars = pope_bars(metrics).drawing.axes[0].patches
    assert sum(bool(bar.get_hatch()) for bar in bars) == 8


def test_shr_bars_show_both_kinds_and_the_length(metrics):
    figure = shr_bars(metrics)
    assert [row["model"] for row in figure.data] == ["base", "merged", "base_cut"]
    left, right = figure.drawing.axes
    assert [label.get_text() for label in left.get_yticklabels()][
        2
    ] == "base, cut to the same length"
    widths = [round(bar.get_width(), 6) for bar in left.patches]
    assert widths[:2] == [10.0, 20.0]  # absent, attribute: percent of the sentences
    assert [bar.get_width() for bar in right.patches] == [46.0, 43.0, 45.0]
    assert "from 30.0 % to 15.0 %, while answers go from 46.0 to 43.0 words" in figure.title


def test_a_judge_without_kinds_still_has_a_bar(metrics):
    whole = [m for m in metrics if not m.name.startswith(("absent", "attribute"))]
    left = shr_bars(whole).drawing.axes[0]
    assert max(bar.get_width() for bar in left.patches) == pytest.approx(30)


def test_dumbbell_shows_base_tuned_and_reported(metrics):
    reported = read_reported(["hadpo"], backbone="llava-1.5")
    table = comparison([replace(results(metrics), is_mini=False)], reported)
    figure = dumbbell(table)
    row = next(r for r in figure.data if (r["split"], r["measure"]) == ("adversarial", "accuracy"))
    assert row["reported_tuned"] == pytest.approx(0.8146)
    assert row["difference"] == pytest.approx(24 / 120)
    assert figure.title == (
        "5 of 5 differences between base and tuned are clear of zero "
        "(3 better, 0 worse, 2 neither)."
    )
    marks = [line.get_marker() for line in figure.drawing.axes[0].get_lines()]
    assert marks.count("D") == 2 * sum(r["reported_base"] is not None for r in figure.data) > 0
    mini = dumbbell(comparison([results(metrics)], reported))  # of another model: no mark beside
    assert "D" not in [line.get_marker() for line in mini.drawing.axes[0].get_lines()]
    assert "published" not in mini.note
    assert all(
        line.get_markerfacecolor() == "none"
        for line in figure.drawing.axes[0].get_lines()
        if line.get_marker() == "D"
    )
    assert any(text.startswith("+20.0 [") and text.endswith("u, 120") for text in texts(figure))
    notes = " ".join(t.get_text() for t in figure.drawing.texts).replace("\n", " ")
    assert "published base and tuned" in notes and "mini" not in notes


def test_a_model_that_the_tables_do_not_know_is_drawn_after_the_others(metrics):
    more = [replace(m, model="kto") for m in metrics if m.model == "merged"]
    pope = pope_bars(more + metrics)
    assert [r["model"] for r in pope.data if r["split"] == "random"] == ["base", "merged", "kto"]
    assert texts(pope).count("kto") == 2  # one bar a split
    shr = shr_bars(more + metrics)
    assert [row["model"] for row in shr.data] == ["base", "merged", "base_cut", "kto"]
    labels = [label.get_text() for label in shr.drawing.axes[0].get_yticklabels()]
    assert labels[-1] == "kto"
    colours = [bar.get_facecolor() for bar in shr.drawing.axes[1].patches]
    assert len(set(colours)) == len(colours) == 4  # none looks like another


def test_nothing_to_draw_is_an_error(metrics):
    with pytest.raises(BadInput, match="no confusion counts of pope"):
        pope_bars([m for m in metrics if m.benchmark == "shr"])
    with pytest.raises(BadInput, match="no SHR among the metrics"):
        shr_bars([m for m in metrics if m.benchmark == "pope"])
    with pytest.raises(BadInput, match="no rows to draw"):
        dumbbell(comparison([results(metrics)]), measures=("other",))


def test_a_value_that_is_none_is_drawn_as_a_dash(metrics):
    gone = [
        replace(m, value=None, n=0, low=None, high=None)
        if (m.model, m.name) == ("merged", "hallucinated_sentence_ratio")
        else m
        for m in metrics
    ]
    assert any("-, n 0" in text for text in texts(shr_bars(gone)))
