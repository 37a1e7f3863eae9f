"""Files broken at random: whatever a reader is given, only BadInput comes out of it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hadpo.data import Report, asked, chair
from hadpo.records import BadInput
from tests.data.test_bad_input import READERS, layouts

SURPRISES = (
    *(None, True, 0, -1, 1.5, 7.0, 1e308, float("nan"), float("inf"), 10**400, 2**64),
    *(
        "",
        " ",
        "7",
        "07",
        "\u00b2",
        "seven",
        "../7",
        "/etc/passwd",
        "a\0b",
        "\ud800",
        "\u202e\u0645",
    ),
    *("\U0001f600" * 3, "###Human: <Img><ImageHere></Img>", "</s>", "word " * 4000, "NaN", "1,2,3"),
    *([], {}, [[]], [None], {"7": None}, [{"image_id": 7}], ["a"], [1, 2, 3, 4]),
)
values = st.sampled_from(SURPRISES) | st.integers() | st.text(max_size=5)


def places(value, at=()):
    """The paths of all values inside a decoded JSON value."""
    yield at
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, each in inside:
        yield from places(each, (*at, key))


def changed(value, at, draw):
    """The value with another one, or none, or two at a path."""
    if not at:
        return draw(values)
    key, copy = at[0], value.copy()
    if len(at) > 1:
        copy[key] = changed(value[key], at[1:], draw)
        return copy
    what = draw(st.sampled_from(("replace", "delete", "twice", "rename")))
    if what == "replace":
        copy[key] = draw(values)
    elif what == "twice" and isinstance(copy, list):
        copy.append(copy[key])
    elif what == "rename" and isinstance(copy, dict):
        copy[draw(st.text(max_size=3))] = copy.pop(key)
    else:
        del copy[key]
    return copy


@st.composite
def broken_bytes(draw, content):
    """Content as an editor or a download breaks it."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 9)))
    put_in = draw(st.binary(max_size=6) | st.sampled_from((b'"', b"\0", b"[" * 5000, b"\r", b",")))
    content = content[:start] + put_in + content[end:]
    if draw(st.booleans()):
        content = content.replace(b"\n", b"\r\n")
    return b"\xef\xbb\xbf" * draw(st.integers(0, 2)) + content


@st.composite
def broken(draw, content):
    """Content with one value changed, or some bytes."""
    try:
        value = json.loads(content)
    except json.JSONDecodeError:
        return draw(broken_bytes(content))
    if draw(st.booleans()):
        return draw(broken_bytes(content))
    at = draw(st.sampled_from(list(places(value))))
    return json.dumps(changed(value, at, draw)).encode()


ASKED = {  # what `hadpo answer` is given
    "asked.txt": "Is it red?\nWhat is it?\n",
    "asked.json": '[{"image": "7.jpg", "question": "Is it red?", "question_id": 0}]',
    "asked.jsonl": '{"image_id": "7", "text": "a?"}\n{"image": "7.jpg", "instruction": "b"}\n',
    "asked.csv": 'image,question\n7.jpg,"Is it red, or blue?"\n7,What?\n',
}
ALL = {
    **READERS,
    "synonyms.txt": lambda f, report: chair.synonyms(f / "synonyms.txt", report),
    **{name: lambda f, report, name=name: asked.read(f / name, f, report) for name in ASKED},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = layouts(tmp_path_factory.mktemp("layouts"))
    for name, text in ASKED.items():
        (found / name).write_text(text)
    (found / "7.jpg").touch()
    return found


many = pytest.mark.parametrize("name", sorted(ALL))
both = pytest.mark.parametrize("on_bad", ["error", "skip"])
FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@many
@both
@settings(max_examples=15, **FUZZ)
@given(data=st.data())
def test_only_bad_input_comes_out(folder, name, on_bad, data):
    read_broken(folder, name, on_bad, data)


@pytest.mark.slow
@many
@both
@settings(max_examples=400, **FUZZ)
@given(data=st.data())
def test_only_bad_input_comes_out_of_many(folder, name, on_bad, data):
    read_broken(folder, name, on_bad, data)


def read_broken(folder, name, on_bad, data):
    path = folder / name
    right = path.read_bytes()
    path.write_bytes(data.draw(broken(right)))
    report = Report(on_bad)
    try:
        found = ALL[name](folder, report)
        report.finish()
    except BadInput as error:
        str(error).encode()  # can be shown and logged
        return
    finally:
        path.write_bytes(right)
    assert on_bad == "skip" or not report.n_problems
    assert sum(report.counts.values()) >= report.n_problems  # nothing is left out in silence
    repr(found).encode()  # and what was read can be written
