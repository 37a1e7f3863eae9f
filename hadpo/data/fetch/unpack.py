"""Archives unpacked into one folder and nowhere else: no path out of it, no links, no devices."""

import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from hadpo.data.fetch.plain import FetchFailed, check_space

_JUNK = ("__MACOSX", ".DS_Store")  # what a Mac puts into archives
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip or tar file into `folder`; it appears there when all of it is unpacked.

    Returns:
        How many files.

    Raises:
        FetchFailed: no archive, a broken one, one that would write elsewhere, or no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        try:
            if zipfile.is_zipfile(archive):
                count = _unzip(archive, Path(scratch))
            elif tarfile.is_tarfile(archive):
                count = _untar(archive, Path(scratch))
            else:
                raise FetchFailed(f"{archive}: neither a zip nor a tar archive")
        except _BROKEN as error:
            raise FetchFailed(
                f"{archive}: a broken archive ({error}); delete it, fetch again"
            ) from error
        for path in sorted(Path(scratch).iterdir()):
            _move(path, folder / path.name)
    return count


def _unzip(archive: Path, folder: Path) -> int:
    with zipfile.ZipFile(archive) as file:
        members = [m for m in file.infolist() if not _is_junk(m.filename)]
        for member in members:
            _check_name(member.filename, archive)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise FetchFailed(f"{archive}: {member.filename!r} is a link; refused")
        check_space(folder, sum(m.file_size for m in members), source=str(archive))
        for member in members:
            file.extract(member, folder)
    return sum(not m.is_dir() for m in members)


def _untar(archive: Path, folder: Path) -> int:
    with tarfile.open(archive) as file:
        members = [m for m in file.getmembers() if not _is_junk(m.name)]
        for member in members:
            _check_name(member.name, archive)
            if not (member.isfile() or member.isdir()):
                raise FetchFailed(f"{archive}: {member.name!r} is a link or a device; refused")
        check_space(folder, sum(m.size for m in members), source=str(archive))
        file.extractall(folder, members=members, filter="data")
    return sum(m.isfile() for m in members)


def _is_junk(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part in _JUNK or part.startswith("._") for part in parts)


def _check_name(name: str, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
        raise FetchFailed(f"{archive}: {name!r} would be written outside of its folder; refused")


def _move(source: Path, target: Path) -> None:
    """Move a file or folder; a folder that is there already is filled up."""
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
        return
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
