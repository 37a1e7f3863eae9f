import contextlib
import hashlib
import json
import os

import pytest

from hadpo.records import (
    BadInput,
    Case,
    Evidence,
    Pair,
    Region,
    drop_torn_end,
    input_hashes,
    parse,
    read_json,
    read_jsonl,
    refuse_changed,
    replacing,
    to_json,
    write_jsonl,
    write_text,
)

PAIR = Pair(
    pair_id="1",
    image_id="7",
    image="VG/7.jpg",
    instruction="Describe this image in detail.",
    chosen="A cup.",
    rejected="A cup and a dog ☕.",
    kind="description",
    source="test",
)


def test_a_record_survives_writing_and_reading(tmp_path):
    evidence = Evidence(
        image_id="7",
        image="7.jpg",
        width=4,
        height=3,
        regions=(Region(x=0, y=1, width=2, height=2, phrase="a cup"),),
        facts=("It is empty.",),
    )
    case = Case(case_id="q", model="base", claims=("A cup.", "A dog."), evidence=evidence)
    assert write_jsonl(tmp_path / "new" / "cases.jsonl", [case, case]) == 2
    assert list(read_jsonl(tmp_path / "new" / "cases.jsonl", Case)) == [case, case]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reject": "x"}, "unknown field 'reject'; Pair has .*'rejected'"),
        ({"chosen": 3}, "field 'chosen': expected str, found int 3"),
        ({"kind": "caption"}, "field 'kind': expected one of .*'pope'.*, found 'caption'"),
        ({"chosen": None}, "field 'chosen': expected str, found NoneType"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path, change, message):
    good = json.loads(to_json(PAIR))
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    with pytest.raises(BadInput, match=rf"pairs\.jsonl:2: {message}"):
        list(read_jsonl(path, Pair))


def test_a_missing_field_and_a_list_at_the_top_are_named():
    with pytest.raises(BadInput, match=r"f:1: no field 'pair_id', .*'source' \(found \['kind'\]\)"):
        parse({"kind": "pope"}, Pair, where="f:1")
    with pytest.raises(BadInput, match="expected an object, found list"):
        parse([], Pair, where="f:1")


def test_all_problems_of_a_line_are_named_at_once(tmp_path):
    region = {"x": 0, "y": "1", "width": 2, "height": 2, "phrase": "a cup", "z": 0}
    evidence = {
        "image_id": "7",
        "image": "7.jpg",
        "width": True,
        "height": 1.5,
        "regions": [region],
    }
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"case_id": "q", "claims": "A cup.", "evidence": evidence}))
    with pytest.raises(BadInput) as caught:
        list(read_jsonl(str(path), Case))
    where, _, problems = str(caught.value).partition(":1: ")
    assert where == str(path)
    assert problems.split("; ") == [
        "field 'claims': expected a list, found str 'A cup.'",
        "field 'evidence.width': expected int, found bool True",
        "field 'evidence.height': expected int, found float 1.5",
        "field 'evidence.regions[0].y': expected float, found str '1'",
        "unknown field 'evidence.regions[0].z'",
        "Region has ['x', 'y', 'width', 'height', 'phrase']",
        "no field 'model' (found ['case_id', 'claims', 'evidence'])",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image_id": "7", "image_id": "8"}', "the key 'image_id' stands twice in one object"),
        ('{"a": [{"b": 1, "b": 1}]}', "the key 'b' stands twice"),
        ('{"width": NaN}', "expected a finite number, found NaN"),
        ('{"width": -Infinity}', "expected a finite number, found -Infinity"),
        ('{"width": 1e999}', "expected a finite number, found 1e999"),
        (f'{{"width": {2**63}}}', "an integer of 19 digits, too large for 64 bits"),
        (f'{{"width": 1{"0" * 5000}}}', "an integer of 5001 digits"),
        ("[" * 100_000, "lists and objects are nested too deeply"),
        (f'{{"image": {"[" * 400}{"]" * 400}}}', "nested too deeply"),
        ("\udcff", "not UTF-8"),
        ('{"image": "\\ud83d"}', "half a character"),
    ],
)
def test_what_json_readers_take_in_silence_is_refused(tmp_path, line, message):
    path = tmp_path / "evidence.jsonl"
    path.write_text("\n" + line + "\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(BadInput, match=rf"evidence\.jsonl:2: .*({message})"):
        list(read_jsonl(path, Evidence))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; run it again"),
        (b" ", "the file is empty; run it again"),
        (b"\xff", "not UTF-8"),
        (b'{"a": [1, 2', r"not JSON \(it is cut off\); run it again"),
        (b'{"a": 1}\n{"a": 2}', r"not JSON \(Extra data: line 2 column 1"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        (b"<html>404</html>", "an HTML page"),
        (b"[]", "the top level is of type list; run it again"),
        (b'\xef\xbb\xbf{"a": 1}', None),
    ],
)
def test_a_json_file_is_read_or_refused_with_what_to_do(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    if message is None:
        assert read_json(str(path), dict, expected="") == {"a": 1}
        return
    with pytest.raises(BadInput, match=rf"a\.json: {message}"):
        read_json(path, dict, expected="run it again")


def test_an_absent_file_and_a_number_without_end_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"pairs\.jsonl: no such file"):
        list(read_jsonl(tmp_path / "pairs.jsonl", Pair))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Region(x=float("nan"), y=0, width=1, height=1, phrase=""))


def test_a_torn_last_line_is_dropped_only_where_asked(tmp_path):
    path = tmp_path / "pairs.jsonl"
    line = to_json(PAIR)
    path.write_text(line + "\n" + line[: len(line) // 2])
    assert list(read_jsonl(path, Pair, torn_end=True)) == [PAIR]
    with pytest.raises(BadInput, match=r"pairs\.jsonl:2: not JSON"):
        list(read_jsonl(path, Pair))


def test_a_byte_order_mark_and_empty_lines_are_no_trouble(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\ufeff" + to_json(PAIR) + "\r\n\n", encoding="utf-8")
    assert list(read_jsonl(path, Pair)) == [PAIR]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, [PAIR])

    def broken():
        yield PAIR
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_jsonl(path, broken())
    assert list(read_jsonl(path, Pair)) == [PAIR]
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "done.json"
    write_text(path, "first ☕")
    assert path.read_text(encoding="utf-8") == "first ☕"

    def killed(part, target):
        assert part.read_text(encoding="utf-8") == "second"
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "second")
    assert path.read_text(encoding="utf-8") == "first ☕"


def test_processes_that_write_the_same_file_do_not_share_a_part(tmp_path):
    path = tmp_path / "features.bin"
    with replacing(path, is_shared=True) as part:
        assert str(os.getpid()) in part.name and part.suffix == ".part"
        part.write_bytes(b"1")
    assert path.read_bytes() == b"1"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    for error in (None, RuntimeError("midway")):
        folder = tmp_path / f"run-{error}"
        with contextlib.suppress(RuntimeError), replacing(folder) as part:
            part.mkdir()
            (part / "a.json").write_text("{}")
            if error:
                raise error
        assert folder.is_dir() == (error is None)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "left"),
    [("", ""), ("{}\n", "{}\n"), ("{}\n{", "{}\n"), ("{", ""), ("{}\n\n[", "{}\n\n")],
)
def test_a_torn_end_is_cut_off(tmp_path, content, left):
    path = tmp_path / "lines.jsonl"
    path.write_text(content)
    drop_torn_end(path)
    assert path.read_text() == left
    drop_torn_end(tmp_path / "absent.jsonl")
    assert not (tmp_path / "absent.jsonl").exists()


def test_hashes_of_inputs(tmp_path):
    run, model = tmp_path / "runs" / "mine", tmp_path / "model"
    for place in (run / "merge" / "merged", run / "merge" / "sft" / "merged", model / "deep"):
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(str(place).encode())
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("not an input")
    merged = run / "merge"
    places = [merged / "merged", merged / "sft" / "merged", model, model / "absent", "owner/name"]
    found = input_hashes(places, below=run)
    assert list(found) == [
        "merge/merged/model.safetensors",
        "merge/sft/merged/model.safetensors",
        "model/config.json",
    ]
    assert found["model/config.json"] == hashlib.sha256(b"{}").hexdigest()
    other = input_hashes(places[:2], below=tmp_path / "another run")  # names of one kind
    assert list(other) == ["merged/model.safetensors", "sft/merged/model.safetensors"]


def test_large_inputs_are_told_by_size_and_ends(tmp_path):
    path = tmp_path / "big.bin"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)  # holes: no disk is used
    [(key, first)] = input_hashes([path], below=tmp_path).items()
    assert key == "big.bin (size, first and last MB)"
    assert first.startswith(f"{65 * 2**20} bytes, ")
    for place in (0, 65 * 2**20 - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(os.urandom(1).replace(b"\0", b"1"))
        assert input_hashes([path], below=tmp_path)[key] != first


def test_changed_inputs_are_refused_by_name(tmp_path):
    noted = {"a/model.bin": "1", "a/config.json": "2", "prepare/pairs.jsonl": "3"}
    refuse_changed(noted, {"a/model.bin": "1", "a/config.json": "2"}, where=tmp_path)
    refuse_changed(noted, {}, where=tmp_path)  # the weights are gone, the answers are not
    refuse_changed({"x": "0"}, {"a/model.bin": "1"}, where=tmp_path)
    with pytest.raises(BadInput, match=r"now: a/model\.bin differ"):
        refuse_changed(noted, {"a/model.bin": "9", "a/config.json": "2"}, where=tmp_path)
    with pytest.raises(BadInput, match=r"now: a/model\.safetensors differ"):
        refuse_changed(noted, {"a/model.safetensors": "9", "a/config.json": "2"}, where=tmp_path)
