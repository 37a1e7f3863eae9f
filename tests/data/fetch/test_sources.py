"""The manifest: strict, complete for what the recipes name, and what a user has is found."""

import io
import json
import zipfile

import pytest

from hadpo import config, plugins
from hadpo.data import fetch
from hadpo.records import BadInput
from hadpo.runs import BadEnvironment


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Puts a manifest of the test's over ours."""

    def write(text):
        path = tmp_path / f"sources-{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(text)
        monkeypatch.setenv("HADPO_SOURCES", str(path))

    return write


def resolve_in(folder):
    return lambda text: folder / text.replace("${HADPO_DATA}/", "").replace("${HADPO_MODELS}/", "")


def test_every_published_variant_has_an_entry_with_all_its_parts():
    for family in plugins.available("hadpo.backbones"):
        for variant in plugins.load("hadpo.backbones", family).VARIANTS:
            if not variant.startswith("mini"):
                source = fetch.source(f"{family}/{variant}")
                assert source.items and source.licence, variant


def recipes_for_real_models():
    for name in config.recipe_names():
        recipe = config.load_recipe(name)
        if recipe.model and "HADPO_MODELS" in str(recipe.model.files):
            yield name, recipe


def test_recipes_look_where_fetch_puts_things():
    seen = 0
    for name, recipe in recipes_for_real_models():
        data = recipe.data
        sets = [data.visual_genome, data.coco, data.pope, data.shr, data.pairs_folder]
        for path in [*recipe.model.files.values(), *filter(None, sets)]:
            assert fetch.names_for(path), (name, path)
        if data.pairs_folder:
            assert fetch.names_for(data.pairs_folder) == ["hadpo-pairs"], name
        seen += 1
    assert seen >= 6


@pytest.mark.parametrize("names", [["pope", "gavie"], ["gavie", "shr", "pope", "gavie"]])
def test_several_names_are_looked_at_each_once(names, tmp_path, monkeypatch, capsys):
    from hadpo.cli.fetching import fetch as command

    monkeypatch.setenv("HADPO_DATA", str(tmp_path))
    with pytest.raises(BadEnvironment) as error:
        command(names, check=True, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [*dict.fromkeys(row["name"] for row in rows)] == [*dict.fromkeys(names)]
    assert len({row["path"] for row in rows}) == len(rows)
    missing = [row["path"] for row in rows if row["status"] != "present"]
    assert all(path in str(error.value) for path in missing) and len(missing) >= 2


def test_sizes_are_known_and_addresses_are_whole():
    for name, source in fetch.sources().items():
        for item in fetch.source(name).items:
            if item.made:
                continue
            assert item.size > 0, (name, item.to)
            assert item.source.startswith(("https://", "http://", "${HADPO_DATA}")), item.source
            assert item.holds or not (item.unpack or item.hub), (name, item.to)
        assert source.title and source.licence


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {title: A, licence: B, items: [{to: x}]}", "name one of hub, url"),
        ("a: {title: A, licence: B, items: [{to: x, url: u, hub: h}]}", "name one of hub, url"),
        (
            "a: {title: A, licence: B, items: [{to: x, urll: u}]}",
            r"a: .*'items\[0\]\.urll'",
        ),
        ("a: {title: A}", "a: no field 'licence'"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_manifest_of_ones_own_is_checked(own, text, message):
    own(text)
    with pytest.raises(BadInput, match=message):
        fetch.sources()


def test_what_is_there_is_found_and_verified(own, tmp_path, web):
    own(
        "set:\n  title: T\n  licence: L\n  items:\n"
        f"    - {{url: {web.url}/a.json, to: '${{HADPO_DATA}}/a.json', bytes: 4, sha256: '5c62'}}\n"
        f"    - {{url: {web.url}/b.zip, to: '${{HADPO_DATA}}/b', unpack: true, "
        "holds: {'images/*.jpg': 2, list.json: 1}}\n"
    )
    folder = tmp_path / "data"
    resolve = resolve_in(folder)

    def states(**how):
        return [state.status for state in fetch.look_all("set", resolve, **how)]

    assert states() == ["missing", "missing"]
    (folder / "b" / "images").mkdir(parents=True)
    (folder / "a.json").write_text("<html>")
    assert states() == ["broken", "missing"]
    (folder / "a.json").write_text("1234")
    (folder / "b" / "list.json").write_text("[]")
    (folder / "b" / "images" / "1.jpg").write_text("x")
    found = fetch.look_all("set", resolve)
    assert "images/*.jpg (1 of 2 files)" in found[1].detail
    (folder / "b" / "images" / "2.jpg").write_text("x")
    assert states() == ["present", "present"]
    assert states(deep=True) == ["broken", "present"]  # other bytes than published
    outcomes = list(fetch.fetch("set", resolve, patience=fetch.Patience(retries=0)))
    assert [o.was_fetched for o in outcomes] == [False, False]
    assert "404" in outcomes[0].problem and outcomes[1].status == "present"
    assert {entry[1] for entry in web.log} == {"/a.json"}


def test_a_data_set_is_fetched_unpacked_and_gone_on_with(own, tmp_path, web):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for k in range(3):
            file.writestr(f"val2014/{k}.jpg", b"x" * 1000)
    web.routes["/v.zip"] = lambda handler: handler.file(archive.getvalue(), cut=100)
    own(
        "set:\n  title: T\n  licence: L\n  items:\n"
        f"    - {{url: {web.url}/v.zip, to: '${{HADPO_DATA}}/coco', unpack: true, "
        "holds: {'val2014/*.jpg': 3}}\n"
    )
    resolve = resolve_in(tmp_path / "data")
    (first,) = fetch.fetch("set", resolve, patience=fetch.Patience(retries=0))
    assert "cut" in first.problem or "gave up" in first.problem
    web.routes["/v.zip"] = archive.getvalue()
    (second,) = fetch.fetch("set", resolve, patience=fetch.Patience(retries=0))
    assert second.was_fetched and second.note == "3 files unpacked" and not second.problem
    assert web.log[-1][2] == "bytes=100-"
    assert {p.name for p in (tmp_path / "data" / "coco").iterdir()} == {"val2014"}


def test_missing_shards_are_named(own, tmp_path):
    own(
        "m:\n  title: T\n  licence: L\n  items:\n"
        "    - {hub: a/b, to: '${HADPO_MODELS}/m', weights: true, holds: {config.json: 1}}\n"
    )
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    resolve = resolve_in(tmp_path)
    assert "weights (model.safetensors" in fetch.look_all("m", resolve)[0].detail
    index = {"weight_map": {"x": "one.bin", "y": "two.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "one.bin").write_text("x")
    assert fetch.look_all("m", resolve)[0].detail.endswith("lacks two.bin")
    (folder / "two.bin").write_text("version https://git-lfs.github.com/spec/v1")
    found = fetch.look_all("m", resolve)[0]
    assert found.status == "broken" and "git lfs pull" in found.detail
