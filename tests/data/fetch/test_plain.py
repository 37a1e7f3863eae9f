"""One file from a plain address, against a server that cuts, stalls, lies and refuses."""

import hashlib
import os
import subprocess
import time

import pytest

from hadpo.data.fetch import FetchFailed, Patience
from hadpo.data.fetch.plain import check_space, download

CONTENT = bytes(range(256)) * 300
SHA = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(retries=3, pause_seconds=0.01, timeout_seconds=2.0)


def test_a_file_is_fetched_once_it_is_right(web, tmp_path):
    web.routes["/a"] = CONTENT
    told = []
    download(
        f"{web.url}/a",
        tmp_path / "deep" / "a",
        size=len(CONTENT),
        sha256=SHA[:8],
        patience=QUICK,
        progress=lambda done, total: told.append((done, total)),
    )
    assert (tmp_path / "deep" / "a").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a"]


def test_it_goes_on_after_a_cut(web, tmp_path):
    cuts = iter([1000, 20000, None])
    web.routes["/a"] = lambda handler: handler.file(CONTENT, cut=next(cuts), ETag='"1"')
    download(f"{web.url}/a", tmp_path / "a", sha256=SHA, patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [entry[2] for entry in web.log] == [None, "bytes=1000-", "bytes=21000-"]


def test_another_process_goes_on_where_the_first_was_cut(web, tmp_path):
    web.routes["/a"] = lambda handler: handler.file(CONTENT, cut=5000, ETag='"1"')
    with pytest.raises(FetchFailed, match=r"gave up .*; \d+ bytes are kept"):
        download(f"{web.url}/a", tmp_path / "a", patience=Patience(retries=1, pause_seconds=0.01))
    assert not (tmp_path / "a").exists()
    web.routes["/a"] = CONTENT
    download(f"{web.url}/a", tmp_path / "a", sha256=SHA, patience=QUICK)
    assert web.log[-1][2] == "bytes=10000-"


def test_a_file_that_changed_in_between_starts_over(web, tmp_path):
    """If-Range: the server answers 200 with the new file."""
    web.routes["/a"] = lambda handler: handler.file(b"old" * 9000, cut=5000, ETag='"old"')
    with pytest.raises(FetchFailed):
        download(f"{web.url}/a", tmp_path / "a", patience=Patience(retries=0))

    def changed(handler):
        assert handler.headers["If-Range"] == '"old"'
        del handler.headers["Range"]
        handler.file(CONTENT, ETag='"new"')

    web.routes["/a"] = changed
    download(f"{web.url}/a", tmp_path / "a", sha256=SHA, patience=QUICK)


def test_a_part_that_is_whole_is_not_fetched_again(web, tmp_path):
    web.routes["/a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT)
    download(f"{web.url}/a", tmp_path / "a", sha256=SHA, patience=QUICK)
    assert len(web.log) == 1 and (tmp_path / "a").read_bytes() == CONTENT


def test_a_part_that_is_too_long_starts_over(web, tmp_path):
    web.routes["/a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    download(f"{web.url}/a", tmp_path / "a", sha256=SHA, patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"sha256": "0" * 64}, "wrong checksum: sha256 [0-9a-f]{16}.*published is 0000"),
        ({"size": 5}, "76800 bytes, published are 5"),
    ],
)
def test_another_file_than_published_is_deleted(web, tmp_path, published, message):
    web.routes["/a"] = CONTENT
    with pytest.raises(FetchFailed, match=message):
        download(f"{web.url}/a", tmp_path / "a", patience=QUICK, **published)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><p>Log in", b"  <html>", b""])
def test_a_web_page_is_no_file(web, tmp_path, body):
    web.routes["/weights.pth"] = body
    with pytest.raises(FetchFailed, match=r"a web page|an empty file"):
        download(f"{web.url}/weights.pth", tmp_path / "weights.pth", patience=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "word"), [(404, "not there"), (403, "forbidden"), (410, "gone")]
)
def test_what_is_not_there_is_asked_for_once(web, tmp_path, status, word):
    web.routes["/a"] = lambda handler: handler.give(b"", status=status)
    with pytest.raises(FetchFailed, match=f"answers {status} {word}"):
        download(f"{web.url}/a", tmp_path / "a", patience=QUICK)
    assert len(web.log) == 1


@pytest.mark.parametrize("status", [503, 500, 429, 408])
def test_a_busy_server_is_asked_again(web, tmp_path, status):
    answers = iter([status, status])

    def busy(handler):
        status = next(answers, 200)
        handler.give(CONTENT if status == 200 else b"", status=status, Retry_After="0")

    web.routes["/a"] = busy
    download(f"{web.url}/a", tmp_path / "a", sha256=SHA, patience=QUICK)
    assert len(web.log) == 3


def test_a_server_that_stays_busy_is_given_up(web, tmp_path):
    web.routes["/a"] = lambda handler: handler.give(b"", status=503)
    with pytest.raises(FetchFailed, match="gave up after 4 attempts: the server answers 503"):
        download(f"{web.url}/a", tmp_path / "a", patience=QUICK)


def test_a_trickle_is_given_up_and_gone_on_with(web, tmp_path):
    """Bytes do come, so no timeout fires; but it would take years."""

    def trickle(handler):
        if len(web.log) > 1:
            return handler.file(CONTENT)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        for start in range(200):
            try:
                handler.wfile.write(CONTENT[start : start + 1])
            except OSError:
                break
            time.sleep(0.01)
        handler.close_connection = True

    web.routes["/a"] = trickle
    slow = Patience(retries=1, pause_seconds=0.01, window_seconds=0.2, least_bytes_per_second=10000)
    download(f"{web.url}/a", tmp_path / "a", sha256=SHA, patience=slow)
    kept = int(web.log[1][2].removeprefix("bytes=").removesuffix("-"))
    assert 0 < kept < 200
    web.log.clear()
    web.routes["/b"] = trickle
    with pytest.raises(
        FetchFailed, match=r"gave up after 1 attempts: too slow: \d+ bytes per second"
    ):
        download(
            f"{web.url}/b",
            tmp_path / "b",
            patience=Patience(retries=0, window_seconds=0.2, least_bytes_per_second=10000),
        )


def test_silence_is_a_timeout(web, tmp_path):
    web.routes["/a"] = lambda handler: time.sleep(1)
    with pytest.raises(FetchFailed, match="ReadTimeout"):
        download(f"{web.url}/a", tmp_path / "a", patience=Patience(retries=0, timeout_seconds=0.1))


def test_nobody_listens(tmp_path):
    with pytest.raises(FetchFailed, match="gave up after 1 attempts: ConnectError"):
        download("http://127.0.0.1:9/a", tmp_path / "a", patience=Patience(retries=0))


def test_redirects_are_followed_and_circles_are_not(web, tmp_path):
    web.routes["/old"] = lambda handler: handler.give(b"", status=302, Location="/a")
    web.routes["/a"] = CONTENT
    download(f"{web.url}/old", tmp_path / "a", sha256=SHA, patience=QUICK)
    web.routes["/x"] = lambda handler: handler.give(b"", status=302, Location="/y")
    web.routes["/y"] = lambda handler: handler.give(b"", status=302, Location="/x")
    with pytest.raises(FetchFailed, match="redirects in a circle"):
        download(f"{web.url}/x", tmp_path / "b", patience=QUICK)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "/etc/hostname"])
def test_only_the_web_is_fetched_from(tmp_path, url):
    with pytest.raises(FetchFailed, match="only http and https"):
        download(url, tmp_path / "a")


def test_a_disk_without_room_is_refused_before_the_first_byte(web, tmp_path):
    with pytest.raises(FetchFailed, match=r"needs 1000000.00 GB, but .* GB free; make room"):
        check_space(tmp_path / "not" / "yet", 10**15, source="x")

    def enormous(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(10**15))
        handler.end_headers()
        handler.close_connection = True

    web.routes["/a"] = enormous
    with pytest.raises(FetchFailed, match="GB free"):
        download(f"{web.url}/a", tmp_path / "a", patience=QUICK)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "hadpo-test", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no rights to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_runs_full_is_said_and_the_part_is_kept(web, small_disk):
    def endless(handler):  # no length, so nothing can be checked before
        handler.protocol_version = "HTTP/1.0"
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT * 2)
        handler.close_connection = True

    web.routes["/a"] = endless
    with pytest.raises(FetchFailed, match=r"the disk of .* is full; make room.*HADPO_MODELS"):
        download(f"{web.url}/a", small_disk / "a", patience=QUICK)
    assert (small_disk / "a.part").stat().st_size > 0 and not (small_disk / "a").exists()
