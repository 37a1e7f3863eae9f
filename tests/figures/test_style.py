import csv
import inspect
import io
import itertools
import struct
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

import hadpo.figures
from hadpo.figures import Figure, mask_picture, pope_bars, shr_bars, training_curves
from hadpo.figures._style import MODEL_COLOURS, house_style, new_drawing, spread
from hadpo.tables import MINI


def small(steps, metrics) -> dict[str, Figure]:
    return {
        "curves": training_curves(steps, is_mini=False),
        "pope": pope_bars(metrics, is_mini=False),
        "shr": shr_bars(metrics, is_mini=False),
        "mask": mask_picture([[1, 0], [1, 1]], {"prefix": 1, "chosen": 1}, is_mini=False),
    }


@pytest.mark.parametrize("name", ["curves", "pope", "shr", "mask"])
def test_a_figure_saves_png_svg_and_data_the_same_each_time(tmp_path: Path, name, steps, metrics):
    figures = [small(steps, metrics)[name] for _ in range(2)]
    first, second = (f.save(tmp_path / str(i)) for i, f in enumerate(figures))
    assert [p.suffix for p in first] == [".png", ".svg", ".csv"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    with Image.open(first[0]) as image:
        assert image.width >= 600 and image.height >= 300
        assert len(set(image.convert("L").get_flattened_data())) > 20  # it shows something
    assert b"<svg" in first[1].read_bytes() and b"<dc:date>" not in first[1].read_bytes()
    rows = list(csv.DictReader(io.StringIO(first[2].read_text())))
    assert len(rows) == len(figures[0].data) > 0
    assert all(value not in ("", None) for row in rows for value in row.values())


def test_png_holds_the_words_and_no_version(steps):
    data = training_curves(steps, is_mini=False).png()
    assert b"After 30 steps" in data and matplotlib.__version__.encode() not in data
    width, height = struct.unpack(">II", data[16:24])
    assert width == 1500 and height > 500  # 10 inches at 150 dots


def test_a_figure_shows_itself_with_words(steps):
    figure = training_curves(steps, title="Loss <falls> & rises", is_mini=False)
    page = figure._repr_html_()
    assert page.startswith('<img src="data:image/png;base64,')
    assert "Loss &lt;falls&gt; &amp; rises" in page and "<falls>" not in page
    png, metadata = figure._repr_png_()
    assert png[:4] == b"\x89PNG" and metadata["alt"] == figure.alt != ""


@pytest.mark.parametrize("make", [training_curves, pope_bars, shr_bars, mask_picture])
def test_a_mini_picture_says_so(make, steps, metrics):
    data = {training_curves: steps, mask_picture: [[1, 0], [1, 1]]}.get(make, metrics)

    def texts(figure: Figure) -> str:
        return " ".join(t.get_text() for t in figure.drawing.texts).replace("\n", " ")

    assert MINI in texts(make(data, is_mini=True))
    assert MINI not in texts(make(data, is_mini=False))
    with pytest.raises(TypeError, match="is_mini"):  # forgetting it is an error, not "no"
        make(data)


def test_every_public_function_that_draws_a_runs_data_asks_whether_it_is_mini():
    of_tables = {"dumbbell", "published_dumbbell", "compare", "hallucination_cards"}
    of_tables |= {
        "length_against_hallucination",
        "learning_curve",
    }  # a run's results say it themselves
    of_no_run = {"read_steps", "smooth", "speedup_bars", "verdict_lines"}
    of_records = set()
    for name in set(hadpo.figures.__all__) - of_tables - of_no_run:
        made = getattr(hadpo.figures, name)
        if inspect.isfunction(made) or name == "Curves":
            of_records.add(name)
            given = inspect.signature(made).parameters["is_mini"]
            assert given.default is inspect.Parameter.empty, name
            assert given.kind is inspect.Parameter.KEYWORD_ONLY, name
    assert len(of_records) >= 16


def test_the_users_own_style_is_left_alone():
    matplotlib.rcParams["font.size"] = 23
    with house_style():
        assert matplotlib.rcParams["font.size"] == 8.5
        drawing = new_drawing(2, 1)
    assert matplotlib.rcParams["font.size"] == 23
    matplotlib.rcParams["font.size"] = matplotlib.rcParamsDefault["font.size"]
    assert tuple(drawing.get_size_inches()) == (2, 1)


def test_models_differ_in_grey_too():
    def luminance(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    base, tuned = luminance(MODEL_COLOURS["base"]), luminance(MODEL_COLOURS["merged"])
    assert abs(base - tuned) > 40


def test_spread_moves_labels_apart_and_keeps_their_order():
    placed = spread([1.0, 1.01, 0.99, 5.0], 0.5)
    order = sorted(placed)
    assert all(b - a >= 0.5 - 1e-6 for a, b in itertools.pairwise(order))
    assert placed[2] < placed[0] < placed[1] < placed[3] == 5.0
