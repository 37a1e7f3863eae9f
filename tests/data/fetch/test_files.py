"""Archives: good ones, broken ones, and those that reach out of their folder."""

import io
import stat
import tarfile
import zipfile

import pytest

from hadpo.data.fetch import FetchFailed
from hadpo.data.fetch.files import missing_weights, problem_of, unpack


def zipped(path, members, *, links=()):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, "/etc/passwd")
    return path


def tarred(path, members, *, extra=()):
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for info in extra:
            file.addfile(info)
    return path


def tree(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("make", [zipped, tarred])
def test_archives_fill_their_folder(tmp_path, make):
    target = tmp_path / "VG"
    (target / "VG_100K").mkdir(parents=True)
    (target / "VG_100K" / "0.jpg").write_bytes(b"mine")
    members = {
        "VG_100K/1.jpg": b"one",
        "VG_100K/2.jpg": b"two",
        "__MACOSX/VG_100K/._1.jpg": b"junk",
    }
    assert unpack(make(tmp_path / "a", members), target) == 2
    assert tree(target) == {"VG_100K/0.jpg", "VG_100K/1.jpg", "VG_100K/2.jpg"}
    assert (target / "VG_100K" / "1.jpg").read_bytes() == b"one"


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:\\evil"])
def test_no_path_leads_out(tmp_path, make, name):
    target = tmp_path / "inside"
    archive = make(tmp_path / "a", {"good": b"1", name: b"2"})
    with pytest.raises(FetchFailed, match="would be written outside of its folder; refused"):
        unpack(archive, target)
    assert tree(tmp_path) == {"a"}


def test_links_and_devices_are_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"good": b"1"}, links=["link"])
    with pytest.raises(FetchFailed, match="'link' is a link; refused"):
        unpack(archive, tmp_path / "inside")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        info = tarfile.TarInfo("odd")
        info.type, info.linkname = kind, "/etc/passwd"
        archive = tarred(tmp_path / "a.tar.gz", {"good": b"1"}, extra=[info])
        with pytest.raises(FetchFailed, match="'odd' is a link or a device; refused"):
            unpack(archive, tmp_path / "inside")
    assert tree(tmp_path / "inside") == set()


def test_what_is_no_archive_or_a_broken_one(tmp_path):
    (tmp_path / "a").write_bytes(b"no archive")
    with pytest.raises(FetchFailed, match="neither a zip nor a tar"):
        unpack(tmp_path / "a", tmp_path / "inside")
    whole = zipped(tmp_path / "b", {"file": b"content" * 100}).read_bytes()
    (tmp_path / "b").write_bytes(whole.replace(b"content", b"c0ntent", 1))
    with pytest.raises(FetchFailed, match=r"a broken archive .*CRC"):
        unpack(tmp_path / "b", tmp_path / "inside")
    whole = tarred(tmp_path / "c", {"file": bytes(range(256)) * 999}).read_bytes()
    (tmp_path / "c").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FetchFailed, match=r"neither|a broken archive"):
        unpack(tmp_path / "c", tmp_path / "inside")
    assert tree(tmp_path / "inside") == set()


def test_what_no_disk_can_hold_and_what_is_locked_is_named(tmp_path):
    with pytest.raises(FetchFailed, match="longer than a file's name can be"):
        unpack(zipped(tmp_path / "a", {"x" * 300: b"1"}), tmp_path / "inside")
    with pytest.raises(FetchFailed, match="a broken archive"):
        unpack(zipped(tmp_path / "b", {"a": b"1", "a/b": b"2"}), tmp_path / "inside")
    locked = bytearray(zipped(tmp_path / "c", {"a": b"1"}).read_bytes())
    locked[6] |= 1  # the flag "encrypted" of the file, and of the table of contents
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "c").write_bytes(locked)
    with pytest.raises(FetchFailed, match="'a' is encrypted"):
        unpack(tmp_path / "c", tmp_path / "inside")
    assert tree(tmp_path / "inside") == set()


@pytest.mark.parametrize(
    "head", ['{"a": {}}', '{"a": [1]}', '{"a": {"data_offsets": ["x", "y"]}}', "[" * 9999, "[]"]
)
def test_an_odd_table_of_contents_is_no_safetensors_file(tmp_path, head):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head.encode() + b"0")
    assert "no safetensors file" in problem_of(path)


@pytest.mark.parametrize("found", ['{"a": {}}', '{"a": null}', '["a"]', "[" * 9999])
def test_an_odd_index_of_shards_is_not_readable(tmp_path, found):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": ' + found + "}")
    assert missing_weights(tmp_path) == ["a readable model.safetensors.index.json"]


def test_a_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a", {"big": b"0" * 100})
    usage = type("Usage", (), {"free": 50 + (1 << 26)})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(FetchFailed, match="GB free"):
        unpack(archive, tmp_path / "inside")


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("there", ["other file", "folder", "file for a folder", "link"])
def test_archives_delete_nothing_that_is_there(tmp_path, make, there):
    target = tmp_path / "VG"
    target.mkdir()
    if there == "other file":
        (target / "a").mkdir()
        (target / "a" / "1.jpg").write_bytes(b"mine")
    elif there == "folder":
        (target / "a" / "1.jpg").mkdir(parents=True)
        (target / "a" / "1.jpg" / "notes.txt").write_bytes(b"mine")
    elif there == "file for a folder":
        (target / "a").write_bytes(b"mine")
    else:
        (tmp_path / "elsewhere").write_bytes(b"mine")
        (target / "a").mkdir()
        (target / "a" / "1.jpg").symlink_to(tmp_path / "elsewhere")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    archive = make(tmp_path / "archive", {"a/1.jpg": b"one", "0.jpg": b"new"})
    with pytest.raises(FetchFailed, match=r"a(/1\.jpg)? of it is in .*VG already.*move what is"):
        unpack(archive, target)
    after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert {path: after[path] for path in before} == before
    assert not (target / "0.jpg").exists()


@pytest.mark.parametrize("make", [zipped, tarred])
def test_what_an_earlier_unpacking_left_is_no_obstacle(tmp_path, make):
    target = tmp_path / "VG"
    (target / "a").mkdir(parents=True)
    (target / "a" / "1.jpg").write_bytes(b"one")
    assert unpack(make(tmp_path / "x", {"a/1.jpg": b"one", "a/2.jpg": b"two"}), target) == 2
    assert tree(target) == {"a/1.jpg", "a/2.jpg"}
