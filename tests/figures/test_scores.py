"""Scores beside lengths, of whatever benchmarks were evaluated."""

import pytest

from hadpo import figures
from hadpo.records import BadInput, Metric


def metric(benchmark, model, name, value, **rest):
    place = {"benchmark": benchmark, "split": "val", "model": model, "name": name}
    return Metric(**place, value=value, n=10 if value is not None else 0, **rest)


@pytest.fixture
def free_text():
    found = []
    for model, share in (("base", 0.3), ("merged", 0.2), ("other", 0.1)):
        for name in ("chair_i", "chair_s", "object_recall"):
            found.append(metric("chair", model, name, share, low=share - 0.1, high=share + 0.1))
        found.append(metric("chair", model, "words_per_answer", 50.0 + 10 * share))
        found.append(metric("gavie", model, "accuracy", 10 * share, n_unreadable=2))
        found.append(metric("gavie", model, "words_per_answer", 12.0))
    found.append(metric("gavie", "base", "relevancy", None))
    return found


def test_scores_stand_beside_words(free_text):
    figure = figures.score_bars(free_text, "chair")
    assert [row["model"] for row in figure.data] == ["base", "merged", "other"]
    assert figure.data[0] == {
        "model": "base",
        "chair_i": 0.3,
        "chair_s": 0.3,
        "object_recall": 0.3,
        "words_per_answer": 53.0,
    }
    assert "from 30.0 % to 20.0 %, while answers go from 53.0 to 52.0 words" in figure.title
    assert len(figure.png()) > 5000
    other = figures.score_bars(free_text, "gavie")
    assert "GAVIE: accuracy from 3.0 to 2.0" in other.title
    with pytest.raises(BadInput, match="no GAVIE among the metrics"):
        figures.score_bars(free_text[:4], "gavie")


def test_only_what_was_evaluated_is_drawn(free_text, metrics, tmp_path):
    names = [f.name for f in figures.benchmark_figures(free_text).pictures]
    assert names == ["chair_bars", "gavie_bars"]
    found = figures.benchmark_figures([*metrics, *free_text])
    names = [f.name for f in found.pictures]
    assert names == ["pope_bars", "shr_bars", "chair_bars", "gavie_bars"]
    assert found._repr_html_().count("<img") == 4
    assert len(found.save(tmp_path)) == 12
    with pytest.raises(BadInput, match="no figure"):
        figures.benchmark_figures([])


def test_a_plain_reading_has_no_figure_that_is_called_chair(free_text):
    plain = [metric("chair", "base", name, 0.3) for name in ("plain_i", "plain_s", "plain_recall")]
    some = [m for m in free_text if m.benchmark == "gavie"]
    names = [f.name for f in figures.benchmark_figures([*plain, *some]).pictures]
    assert names == ["gavie_bars"]
