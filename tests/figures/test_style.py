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
import hadpo.tables
from hadpo.figures import Figure, mask_picture, pope_bars, score_bars, training_curves
from hadpo.figures._style import MODEL_COLOURS, house_style, new_drawing, spread
from hadpo.tables import MINI


def shr_bars(metrics) -> Figure:
    return score_bars(metrics, "shr")


SMALL = {
    "curves": lambda steps, _: training_curves(steps),
    "pope": lambda _, metrics: pope_bars(metrics),
    "shr": lambda _, metrics: shr_bars(metrics),
    "mask": lambda *_: mask_picture([[1, 0], [1, 1]], {"prefix": 1, "chosen": 1}),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_figure_saves_png_svg_and_data_the_same_each_time(tmp_path: Path, name, steps, metrics):
    figures = [SMALL[name](steps, metrics) for _ in range(2)]
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
    data = training_curves(steps).png()
    assert b"After 30 steps" in data and matplotlib.__version__.encode() not in data
    width, height = struct.unpack(">II", data[16:24])
    assert width == 1500 and height > 500  # 10 inches at 150 dots


def test_a_figure_shows_itself_with_words(steps):
    figure = training_curves(steps, title="Loss <falls> & rises")
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

    figure = make(data)
    assert MINI not in texts(figure)
    assert MINI in texts(figure.as_mini()) and MINI in figure.as_mini().note
    assert texts(figure.as_mini()).count(MINI) == 1  # said once, however often it is marked


def test_no_function_asks_whether_what_it_draws_is_mini():
    """A run, its results and its tables say it themselves, and a page of a run bears it once."""
    for module in (hadpo.figures, hadpo.tables):
        functions = [f for f in vars(module).values() if inspect.isfunction(f)]
        assert len(functions) > 15
        assert not [f for f in functions if "is_mini" in inspect.signature(f).parameters]


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
