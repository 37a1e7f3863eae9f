"""Pictures in parallel: fetched, found, dead, and never asked for twice."""

import io
import json
import socket
import time

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


def test_a_host_that_cannot_be_and_a_folder_in_the_way_cost_one_picture_each(web, tmp_path):
    web.routes["/good.jpg"] = picture((1, 2, 3))
    (tmp_path / "there.jpg").mkdir()
    table = tmp_path / "info.csv"
    rows = (f"long,http://{'a' * 70}.com/", f"there,{web.url}/good.jpg", f"good,{web.url}/good.jpg")
    table.write_text("\n".join(["image_id,image_url", *rows]))
    assert fetch_images(table, tmp_path, patience=QUICK) == {"present": 0, "fetched": 1, "dead": 2}
    dead = [json.loads(line)["why"] for line in (tmp_path / "dead.jsonl").open()]
    assert sorted("is a folder" in why for why in dead) == [False, True]


def test_one_bad_address_costs_its_own_picture_alone(web, tmp_path):
    png = picture((1, 2, 3))
    web.routes["/good.jpg"] = png
    web.routes["/damaged"] = png[:40] + b"\xff" * 99
    leads = {"bracket": "http://[::1", "port": "http://a:99999/", "scheme": "file:///etc/passwd"}
    for name, place in leads.items():
        web.routes[f"/{name}"] = lambda h, to=place: h.give(b"", status=302, Location=to)
    web.routes["/nowhere"] = lambda h: h.give(b"", status=302)
    bad = ["http://[::1", "http://x\x01y/", "http://x/\x7f", "http://a:99999/", "//x", "x"]
    bad += [f"{web.url}/{name}" for name in (*leads, "nowhere", "damaged")]
    rows = [(f"bad{number}", url) for number, url in enumerate(bad)]
    rows += [(f"good{number}", f"{web.url}/good.jpg?{number}") for number in range(len(bad) + 1)]
    counts, why = fetch(tmp_path, rows)
    assert counts == {"present": 0, "fetched": len(bad) + 1, "dead": len(bad)}
    assert why.keys() == {f"bad{number}" for number in range(len(bad))} and all(why.values())
    assert {path.suffix for path in (tmp_path / "images").iterdir()} == {".jpg", ".jsonl"}


def test_rows_that_are_left_out_are_told(web, tmp_path, caplog):
    web.routes["/a.jpg"] = picture((1, 2, 3))
    rows = [("a", f"{web.url}/a.jpg"), ("a", f"{web.url}/b.jpg"), ("c", " "), ("", web.url)]
    counts, why = fetch(tmp_path, rows)
    assert (counts, why) == ({"present": 0, "fetched": 1, "dead": 0}, {})
    assert caplog.messages == [
        f"{tmp_path / 'list.csv'}: images: addresses of an id that was there: 1",
        f"{tmp_path / 'list.csv'}: images: rows without an id or an address: 2",
    ]


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


def fetch(tmp_path, rows, **more):
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["image_id,image_url", *(f"{i},{url}" for i, url in rows)]) + "\n")
    counts = fetch_images(table, tmp_path / "images", patience=QUICK, **more)
    dead = (tmp_path / "images" / "dead.jsonl").read_text().splitlines()
    return counts, {row["image_id"]: row["why"] for row in map(json.loads, dead)}


PRIVATE = [
    "http://10.0.0.1/x",
    "http://192.168.1.1:8080/x",
    "http://172.16.0.9/x",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/x",
    "http://0.0.0.0/x",
    "http://[fe80::1]/x",
    "http://[fd00::1]/x",
    "http://[::ffff:10.0.0.1]/x",
    "http://167772161/x",  # 10.0.0.1 as one number
    "http://224.0.0.1/x",
]


@pytest.mark.parametrize("behind_a_redirect", [False, True])
def test_private_addresses_are_not_asked(web, tmp_path, behind_a_redirect):
    web.routes["/ok.jpg"] = picture((1, 2, 3))
    rows = [("ok", f"{web.url}/ok.jpg")]
    for number, url in enumerate(PRIVATE):
        web.routes[f"/to{number}"] = lambda h, url=url: h.give(b"", status=302, Location=url)
        if behind_a_redirect:
            rows.append((f"p{number}", f"{web.url}/to{number}"))
        else:
            rows += [(f"p{number}", url), (f"ok{number}", f"{web.url}/ok.jpg?{number}")]
    counts, why = fetch(tmp_path, rows)
    assert counts["dead"] == len(PRIVATE) == len(why)
    assert all("a private address; it is not asked" in text for text in why.values())
    assert (tmp_path / "images" / "ok.jpg").is_file()
    assert len(list((tmp_path / "images").iterdir())) == counts["fetched"] + 1  # and no part


def test_a_server_cannot_lead_on_to_another_one_of_this_machine(web, tmp_path):
    web.routes["/ok.jpg"] = picture((1, 2, 3))
    web.routes["/same"] = lambda h: h.give(b"", status=302, Location=f"{web.url}/ok.jpg")
    other = f"http://127.0.0.1:{int(web.url.rpartition(':')[2]) ^ 1}/x.jpg"
    web.routes["/other"] = lambda h: h.give(b"", status=302, Location=other)
    counts, why = fetch(tmp_path, [("same", f"{web.url}/same"), ("other", f"{web.url}/other")])
    assert (counts["fetched"], counts["dead"]) == (1, 1)
    assert "127.0.0.1 is 127.0.0.1, a private address" in why["other"]


def test_a_list_of_strangers_does_not_reach_this_machine(web, tmp_path):
    """Most of its addresses are elsewhere (and nowhere here), so the others are no own server."""
    web.routes["/ok.jpg"] = picture((1, 2, 3))
    rows = [(f"p{n}", f"http://192.0.2.{n}/x.jpg") for n in range(1, 4)]
    counts, why = fetch(tmp_path, [*rows, ("mine", f"{web.url}/ok.jpg")])
    assert counts["dead"] == 4 and "127.0.0.1, a private address" in why["mine"]
    assert web.log == []


def test_a_picture_has_a_time_limit_however_steadily_it_comes(web, tmp_path, monkeypatch):
    def steady(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        for _ in range(100):
            handler.wfile.write(b"x" * 5000)
            handler.wfile.flush()
            time.sleep(0.05)

    web.routes["/slow.jpg"] = steady
    monkeypatch.setattr(images, "_MOST_SECONDS", 0.3)
    counts, why = fetch(tmp_path, [("slow", f"{web.url}/slow.jpg")])
    assert counts["dead"] == 1 and "not there after 0 s" in why["slow"]


DRIPS = {
    "the status": b"HTTP/1.1 200 OK with a reason that never ends",
    "a header": b"HTTP/1.1 200 OK\r\nX-Slow: and so on and so on, byte after byte",
    "another answer before": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK and so on and so on",
}


@pytest.mark.parametrize("where", DRIPS)
def test_a_head_that_drips_is_given_up(web, tmp_path, where):
    """Each byte comes within the time limit of a read; all of them never would."""

    def drip(handler):
        handler.close_connection = True
        for byte in DRIPS[where]:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)

    web.routes["/drip.jpg"] = drip
    table = tmp_path / "list.csv"
    table.write_text(f"image_id,image_url\na,{web.url}/drip.jpg\n")
    slow = Patience(retries=0, timeout_seconds=2, window_seconds=0.4)
    assert fetch_images(table, tmp_path / "images", patience=slow)["dead"] == 1
    [line] = (tmp_path / "images" / "dead.jsonl").read_text().splitlines()
    assert "too slow: " in json.loads(line)["why"]


@pytest.mark.parametrize("first", ["93.184.215.14", None])
def test_the_address_that_was_looked_at_is_asked_and_no_other(web, tmp_path, monkeypatch, first):
    """A name server that answers the check otherwise than the connection reaches nothing here."""
    port = int(web.url.rpartition(":")[2])
    asked, connected = [], []
    real = socket.getaddrinfo

    def changes_its_mind(host, *rest, **more):
        if host != "pictures.example":
            return real(host, *rest, **more)
        asked.append(host)
        if len(asked) == 1 and first is None:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, 1, 6, "", (first if len(asked) == 1 else "127.0.0.1", port))]

    def connect(address, *rest, **more):
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", changes_its_mind)
    monkeypatch.setattr(socket, "create_connection", connect)
    counts, why = fetch(tmp_path, [("a", f"http://pictures.example:{port}/ok.jpg")])
    assert counts["dead"] == 1 and connected == ([first] if first else [])
    assert web.log == []
    # The second try looks again.
    assert "pictures.example is 127.0.0.1, a private address" in why["a"]


def test_a_proxy_of_the_environment_is_asked_instead(web, tmp_path, monkeypatch):
    web.routes["http://93.184.215.14/a.jpg"] = picture((1, 2, 3))
    monkeypatch.setenv("HTTP_PROXY", web.url)
    monkeypatch.setenv("http_proxy", web.url)
    counts, _ = fetch(tmp_path, [("a", "http://93.184.215.14/a.jpg")])
    assert counts["fetched"] == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[1]", r"dead\.jsonl:1: expected an object"),
        ('{"image_id": {}, "url": "http://x/"}', r"dead\.jsonl:1: field 'image_id'"),
        ('{"image_id": "a"}', r"dead\.jsonl:1: no field 'url'"),
        ("not JSON", r"dead\.jsonl:1: not JSON"),
        ('{"image_id": "a", "image_id": "b", "url": "u"}', "'image_id' stands twice"),
    ],
)
def test_an_odd_line_of_the_dead_is_named(web, tmp_path, line, says):
    table = tmp_path / "info.csv"
    table.write_text(f"image_id,image_url\na,{web.url}/a.jpg\n")
    good = '{"image_id": "a", "url": "u", "why": "404"}'
    (tmp_path / "dead.jsonl").write_text(f"{line}\n{good}\n")
    with pytest.raises(BadInput, match=says):
        fetch_images(table, tmp_path, patience=QUICK)
    assert web.log == []
