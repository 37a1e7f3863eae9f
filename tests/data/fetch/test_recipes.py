"""`hadpo fetch --recipe`: all that a recipe reads has a source, and fetching makes it ready."""

import dataclasses
import io
import re
import zipfile

import pytest
import yaml
from typer.testing import CliRunner

from hadpo import config, doctor
from hadpo.cli import app
from hadpo.data import fetch
from hadpo.runs import BadEnvironment

SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


def texts_of(value):
    """Every text in nested settings."""
    if isinstance(value, str):
        yield from config.names(value)
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts_of(each)


def real_recipes():
    found = [name for name in config.recipe_names() if paths_of(name)]
    assert len(found) >= 10
    return found


def paths_of(name):
    settings = config.as_dict(config.load_recipe(name))
    return [t for t in texts_of(settings) if re.match(r"\$\{HADPO_(DATA|MODELS)\}", t)]


def test_every_path_of_every_recipe_has_a_source_or_says_who_makes_it():
    for name in real_recipes():
        for path in paths_of(name):
            names = fetch.names_for(path)
            assert names, (name, path)
            for source in names:
                assert all(
                    i.origin != "made" or len(i.made) > 40 for i in fetch.source(source).items
                )


def test_a_recipe_names_only_the_package_its_world_and_the_three_folders():
    for name in config.recipe_names():
        for text in texts_of(config.as_dict(config.load_recipe(name))):
            for variable in re.findall(r"\$\{(\w+)\}", text):
                known = {"HADPO_DATA", "HADPO_MODELS", "HADPO_SHARED", "PACKAGE", "WORLD"}
                assert variable in known, (name, text)


def content_of(path):
    if path.endswith(".safetensors"):
        return SAFETENSORS
    return b"\x80\x02 weights" if path.endswith((".pth", ".bin")) else b'{"a": 1}\n' * 40


def archive_of(item):
    """A zip with what an item holds, of each pattern a file or two."""
    names = [
        re.sub(r"\*", str(k), p) for p, least in item.holds.items() for k in range(min(least, 2))
    ]
    names += ["model.safetensors"] * item.weights
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in dict.fromkeys(names):
            file.writestr(name, content_of(name))
    return buffer.getvalue()


@pytest.fixture
def everything_near(web, tmp_path, monkeypatch):
    """Every source of the manifest, in small, on a server of this machine."""
    near, number = {}, 0
    for name, source in fetch.sources().items():
        items = []
        for item in source.items:
            if item.made:
                items.append({"made": item.made, "to": item.to})
                continue
            number += 1
            route = f"/{number}"
            entry = {"url": web.url + route, "to": item.to, "weights": item.weights}
            web.routes[route] = content_of(item.to)
            if item.holds:
                web.routes[route] = archive_of(item)
                entry |= {"unpack": True, "holds": {p: min(n, 2) for p, n in item.holds.items()}}
            items.append(entry)
        near[name] = {"title": "T", "licence": "L", "items": items, "same_as": source.same_as}
    (tmp_path / "near.yaml").write_text(yaml.safe_dump(near))
    monkeypatch.setenv("HADPO_SOURCES", str(tmp_path / "near.yaml"))


@pytest.mark.parametrize("recipe", real_recipes())
def test_what_is_fetched_for_a_recipe_makes_the_doctor_content(
    recipe, everything_near, tmp_path, monkeypatch
):
    for name in ("HADPO_DATA", "HADPO_MODELS", "HADPO_RUNS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert not doctor.check(recipe).is_healthy
    wanted = paths_of(recipe)
    made = [
        item
        for name in doctor.sources_of(config.load_recipe(recipe))
        for item in fetch.source(name).items
        if item.made and item.to in wanted
    ]
    done = CliRunner().invoke(app, ["fetch", "--recipe", recipe])
    if made:  # nobody publishes it: the command says who makes it, and all else is there
        assert isinstance(done.exception, BadEnvironment)
        [item] = made
        place = config.resolve_path(item.to)
        assert f"{place}: {config.resolve_path(item.made)}" in str(done.exception)
        [row] = [r for r in doctor.check(recipe).rows if r["status"] == "missing"]
        assert row["found"] == str(place)
        assert row["fix"].endswith(str(config.resolve_path(item.made)))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content_of(item.to))
    else:
        assert done.exit_code == 0, (done.output, done.exception)
    assert doctor.check(recipe).is_healthy, doctor.check(recipe).to_text()


def item_of(**changes):
    return fetch.Item(url="http://127.0.0.1:1/a", to="a", **changes)


def test_a_mirror_is_taken_where_the_first_address_fails(web, tmp_path, monkeypatch):
    web.routes["/again"] = b"the same"
    first = f"{web.url}/gone"
    own = tmp_path / "own.yaml"
    own.write_text(
        f"mine:\n  title: M\n  licence: L\n  items:\n    - url: {first}\n"
        f"      mirrors: [{web.url}/gone-too, {web.url}/again]\n      to: file\n"
    )
    monkeypatch.setenv("HADPO_SOURCES", str(own))
    [state] = fetch.fetch("mine", lambda text: tmp_path / text)
    assert state.was_fetched
    assert state.note.startswith(f"from the mirror {web.url}/again")
    assert (tmp_path / "file").read_bytes() == b"the same"


def test_too_small_a_disk_is_said_before_the_first_byte(web, tmp_path, monkeypatch):
    states = [
        fetch.ItemState(item=item, path=tmp_path / item.to, status="missing", detail="")
        for item in (item_of(gigabytes=3.0), item_of(gigabytes=3.0), item_of(gigabytes=10**6))
    ]
    size, problem = fetch.missing_bytes(states[:1] * 2)  # the same item of two sources counts once
    assert (size, problem) == (3_000_000_000, "")
    huge = dataclasses.replace(states[2], path=tmp_path / "b")
    size, problem = fetch.missing_bytes([states[0], huge])
    assert size == 1_000_003_000_000_000
    assert f"{tmp_path}: 1000003.0 GB to fetch and unpack" in problem
    unpacked = dataclasses.replace(huge, item=item_of(gigabytes=10**6, unpack=True))
    assert "2000000.0 GB to fetch" in fetch.missing_bytes([unpacked])[1]
    own = tmp_path / "own.yaml"
    own.write_text(
        f"huge:\n  title: M\n  licence: L\n  items:\n    - url: {web.url}/a\n"
        "      to: ${HADPO_DATA}/a\n      gigabytes: 1000000\n"
    )
    monkeypatch.setenv("HADPO_SOURCES", str(own))
    monkeypatch.setenv("HADPO_DATA", str(tmp_path))
    done = CliRunner().invoke(app, ["fetch", "huge"])
    assert str(done.exception).startswith(f"nothing was fetched:\n  {tmp_path}: 1000000.0 GB")
    assert web.log == []
