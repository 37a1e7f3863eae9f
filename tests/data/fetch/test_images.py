"""Pictures in parallel: fetched, found, dead, and never asked for twice."""

import io
import json

import pytest
from PIL import Image

from hadpo.data.fetch import Patience, images
from hadpo.data.fetch.images import fetch_images
from hadpo.records import BadInput

QUICK = Patience(retries=1, pause_seconds=0.01, timeout_seconds=2.0)


def picture(colour):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "JPEG")
    return out.getvalue()


def test_dead_addresses_are_listed_and_not_asked_again(web, tmp_path, monkeypatch):
    for k in range(20):
        web.routes[f"/{k}.jpg"] = picture((k, 0, 0))
    web.routes["/page.jpg"] = b"<html>no picture here"
    web.routes["/text.jpg"] = b"no picture at all"
    web.routes["/cut.jpg"] = picture((1, 2, 3))[:200]
    web.routes["/large.jpg"] = bytes(2000)
    monkeypatch.setattr(images, "_MOST_BYTES", 1000)
    names = [*map(str, range(20)), "page", "text", "cut", "nowhere", "large"]
    rows = [f"{name},{web.url}/{name}.jpg" for name in names]
    table = tmp_path / "info.csv"
    table.write_text(
        "\n".join(
            ["image_id,image_url", *rows, rows[0], ",http://x/", "a1,", "bad,http://[::1", ""]
        )
    )
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "3.jpg").write_bytes(picture((9, 9, 9)))
    counts = fetch_images(table, tmp_path / "images", patience=QUICK)
    assert counts == {"present": 1, "fetched": 19, "dead": 6}
    dead = [json.loads(line) for line in (tmp_path / "images" / "dead.jsonl").open()]
    why = {row["image_id"]: row["why"] for row in dead}
    assert set(why) == {"page", "text", "cut", "nowhere", "large", "bad"}
    assert "a web page" in why["page"] and "404" in why["nowhere"]
    assert "no picture" in why["text"]
    assert "too large" in why["large"] and "no address that can be read" in why["bad"]
    left = {p.name for p in (tmp_path / "images").iterdir()}
    assert left == {"dead.jsonl", *(f"{k}.jpg" for k in range(20))}
    web.log.clear()
    again = fetch_images(table, tmp_path / "images", patience=QUICK)
    assert again == {"present": 20, "fetched": 0, "dead": 6} and web.log == []


def test_a_torn_last_line_of_the_dead_is_dropped(web, tmp_path):
    table = tmp_path / "info.csv"
    table.write_text(f"image_id,image_url\na,{web.url}/a.jpg\n")
    (tmp_path / "dead.jsonl").write_text('{"image_id": "a", "ur')
    assert fetch_images(table, tmp_path, patience=QUICK)["dead"] == 1
    assert len(web.log) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,url\n1,http://x/\n", "expected image_id, image_url"),
        ("image_id,image_url\n../../evil,http://x/\n", ":2: image_id '../../evil' is no file name"),
        (f"image_id,image_url\n{'a' * 300},http://x/\n", ":2: image_id 'aaa.*' is no file name"),
        (None, "no such file"),
        (b"image_id,image_url\n\xff\xfe,x\n", "not UTF-8"),
    ],
)
def test_tables_that_are_none(tmp_path, content, message):
    table = tmp_path / "info.csv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=message):
        fetch_images(table, tmp_path / "images", patience=QUICK)
