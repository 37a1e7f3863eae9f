"""A run is a folder that can be moved: no file in it that is read again knows where it lay."""

import shutil

import pytest

from hadpo import runs, trainer
from hadpo.records import BadInput, Pair, read_jsonl, write_jsonl
from hadpo.runs.state import merged_model


def pair(image, number=0):
    return Pair(
        pair_id=f"p{number}",
        image_id="i",
        image=str(image),
        instruction="Say it.",
        chosen="a",
        rejected="b",
        kind="description",
        source="s",
    )


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HADPO_DATA", str(tmp_path / "data"))
    run = runs.open_run("prepare", "mini/llava", "a", {})
    places = [run.path("world", "x.png"), tmp_path / "data" / "coco" / "y.png", tmp_path / "z.png"]
    for name in (("pairs.jsonl",), ("controls", "swapped.jsonl")):
        write_jsonl(run.path(*name), [pair(place, n) for n, place in enumerate(places)])
    run.note(made={"files": {"lm": str(run.path("merged"))}, "list": [str(run.folder), "word", 3]})
    run.finish()
    return run, places


def test_records_say_where_pictures_lie_in_the_run_and_in_the_data(prepared, tmp_path, monkeypatch):
    run, places = prepared
    for name in ("pairs.jsonl", "controls/swapped.jsonl"):
        path = run.folder / name
        text = path.read_text()
        assert '"image": "${RUN}/prepare/world/x.png"' in text
        assert '"image": "${HADPO_DATA}/coco/y.png"' in text
        assert [one.image for one in read_jsonl(path, Pair)] == [str(p) for p in places]
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "runs" / "a").rename(tmp_path / "elsewhere" / "renamed")
    monkeypatch.setenv("HADPO_DATA", str(tmp_path / "other"))
    expected = [moved / "prepare" / "world" / "x.png", tmp_path / "other" / "coco" / "y.png"]
    for name in ("pairs.jsonl", "controls/swapped.jsonl"):
        found = [one.image for one in read_jsonl(moved / "prepare" / name, Pair)]
        assert found == [*map(str, expected), str(tmp_path / "z.png")]


def test_facts_of_the_manifest_move_too(prepared, tmp_path):
    run, _ = prepared
    assert str(tmp_path / "runs") not in (run.folder / "manifest.json").read_text()
    moved = shutil.copytree(run.folder.parent, tmp_path / "copy")
    manifest = runs.read_manifest(moved / "prepare")
    assert manifest is not None
    assert manifest.facts["made"]["files"] == {"lm": str(moved / "prepare" / "merged")}
    assert manifest.facts["made"]["list"] == [str(moved / "prepare"), "word", 3]
    with pytest.raises(BadInput, match="run 'copy' has no finished merge"):
        merged_model(moved)


def test_a_record_that_lies_in_no_run_is_named(prepared, tmp_path):
    run, _ = prepared
    shutil.copy(run.folder / "pairs.jsonl", tmp_path / "alone.jsonl")
    with pytest.raises(BadInput, match=r"alone\.jsonl:1: field 'image': '\$\{RUN\}/prepare/world"):
        list(read_jsonl(tmp_path / "alone.jsonl", Pair))
    (tmp_path / "odd.jsonl").write_text(run.path("pairs.jsonl").read_text().replace("RUN", "HOME"))
    with pytest.raises(BadInput, match="or the variable is unknown; known here: HADPO_SHARED"):
        list(read_jsonl(tmp_path / "odd.jsonl", Pair))


@pytest.mark.parametrize("change", [{}, {"reference": "cache", "lora_dropout": 0.2}])
def test_a_run_that_moves_in_the_middle_of_training_ends_in_the_same_bytes(
    tiny_run, tiny_pairs, tmp_path, monkeypatch, change
):
    def own_pictures(folder):
        """The pictures lie in the run, as those of the mini world do."""
        path = folder / "prepare" / "pairs.jsonl"
        own = []
        for number, one in enumerate(tiny_pairs[:8]):
            target = folder / "prepare" / "world" / f"{number}.png"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(one.image, target)
            own.append(pair(target, number))
        write_jsonl(path, own)
        assert "${RUN}" in path.read_text()

    def adapter(folder):
        return (folder / "train" / "adapter" / "adapter_model.safetensors").read_bytes()

    recipe, folder = tiny_run(steps=5, checkpoint_every=2, **change)
    own_pictures(folder)
    shutil.copytree(folder, tmp_path / "runs" / "whole")
    list(trainer.train(runs.open_run("train", recipe, "whole", {})))
    run = runs.open_run("train", recipe, "a", {})
    for step in trainer.train(run):
        if step.step == 2:  # update 3 is done, and not saved
            break
    run.fail(KeyboardInterrupt())
    moved = tmp_path / "larger disk"
    (tmp_path / "runs" / "a").rename(moved.mkdir() or moved / "a")
    monkeypatch.setenv("HADPO_RUNS", str(moved))
    steps = list(trainer.train(runs.open_run("train", recipe, "a", {})))
    assert [step.step for step in steps] == [0, 1, 2, 3, 4]  # 0 and 1 are read from the log
    assert adapter(moved / "a") == adapter(tmp_path / "runs" / "whole")


def test_another_picture_in_the_same_place_is_another_training(tiny_run, tmp_path):
    recipe, folder = tiny_run(steps=4, checkpoint_every=2)
    own = [pair(tmp_path / "x.png", number) for number in range(8)]
    from PIL import Image

    Image.new("RGB", (20, 20), "red").save(tmp_path / "x.png")
    write_jsonl(folder / "prepare" / "pairs.jsonl", own)
    run = runs.open_run("train", recipe, "a", {})
    next(step for step in trainer.train(run) if step.step == 2)
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "x.png")
    with pytest.raises(BadInput, match=r"from a training with other pairs"):
        list(trainer.train(run))
