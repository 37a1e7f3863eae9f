"""What lies on disk: archives unpacked, files of weights and checkpoint folders looked at."""

import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from hadpo.data.fetch.plain import FetchFailed, check_space, no_content
from hadpo.records import BadInput, parse, read_json

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")
WEIGHTS = (".safetensors", ".bin", ".pth", ".model")
_JUNK = ("__MACOSX", ".DS_Store")  # what a Mac puts into archives
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError),
    RuntimeError,  # zipfile's, of a compression that it does not know
    *(NotADirectoryError, IsADirectoryError, FileExistsError),  # a file and a folder of one name
)
_LONGEST_NAME = 255  # bytes, as most file systems have it


@dataclass(frozen=True, kw_only=True)
class _Index:
    weight_map: dict[str, str]


def missing_weights(folder: Path) -> list[str]:
    """Files of weights that a checkpoint folder lacks."""
    for index in (folder / name for name in _INDEXES):
        if index.is_file():
            try:
                values = read_json(index, dict, expected="")
                shards = set(parse(values, _Index, where="", extra="ignore").weight_map.values())
            except BadInput:
                return [f"a readable {index.name}"]
            return sorted(shard for shard in shards if not (folder / shard).is_file())
    if any((folder / name).is_file() for name in _SINGLES):
        return []
    return ["weights (" + ", ".join(_SINGLES + _INDEXES) + ")"]


def problem_of(path: Path) -> str:
    """What is wrong with a file or a checkpoint folder that exists; "" if nothing is seen.

    Nothing is loaded: shards are counted, and their own tables of contents say how long they are.
    """
    if path.is_file():
        return _problem_of_file(path)
    settings = _read_config(path)
    if settings:
        if "delta" in str(settings.get("_name_or_path", "")).lower():
            return f"{path}: weights as a difference to LLaMA (a delta), which is no model"
        lost = missing_weights(path) if "model_type" in settings else []
        if lost:
            return f"{path} lacks {', '.join(lost)}"
    weights = (file for file in sorted(path.glob("*")) if file.suffix in WEIGHTS)
    return next(filter(None, map(_problem_of_file, weights)), "")


def is_transformers(folder: Path) -> bool:
    """Whether a folder is laid out as transformers saves a model of vision and language."""
    return "text_config" in _read_config(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder; empty if there is none to read."""
    try:
        return read_json(folder / "config.json", dict, expected="")
    except (OSError, BadInput):
        return {}


def _problem_of_file(path: Path) -> str:
    problem = no_content(path) or _truncated(path)
    return f"{path}: {problem}" if problem else ""


def _truncated(path: Path) -> str:
    """Whether a file of weights ends before it should, by its own table of contents; or ""."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="np"):
                return ""
        except (SafetensorError, OSError):
            return f"no safetensors file, or cut off ({size} bytes)"
    if path.suffix in (".bin", ".pth"):
        with path.open("rb") as file:
            start = file.read(2)
        if start == b"PK" and not zipfile.is_zipfile(path):  # the table of contents stands last
            return f"cut off after {size} bytes"
    return ""


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip or tar file into `folder`, all of it or nothing; how many files.

    Raises FetchFailed for no archive, a broken one, one that would write elsewhere, or no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as file:
                    for entry in _checked(archive, folder, map(_of_zip, file.infolist())):
                        file.extract(entry, scratch)
            elif tarfile.is_tarfile(archive):
                with tarfile.open(archive) as file:
                    for entry in _checked(archive, folder, map(_of_tar, file.getmembers())):
                        file.extract(entry, scratch, filter="data")
            else:
                raise FetchFailed(f"{archive}: neither a zip nor a tar archive")
        except _BROKEN as error:
            raise FetchFailed(
                f"{archive}: a broken archive ({error}); delete it, fetch again"
            ) from error
        if there := list(_both(Path(scratch), folder)):
            raise FetchFailed(
                f"{archive}: {', '.join(there[:5])} of it {'is' if len(there) == 1 else 'are'} in "
                f"{folder} already, with another content; move what is there away, fetch again"
            )
        count = sum(path.is_file() for path in Path(scratch).rglob("*"))
        for path in sorted(Path(scratch).iterdir()):
            _move(path, folder / path.name)
    return count


class _Member(NamedTuple):
    """One file or folder of an archive; `odd`: why it is not unpacked."""

    entry: Any  # as the archive's module has it
    name: str
    size: int
    odd: str


def _of_zip(entry: zipfile.ZipInfo) -> _Member:
    odd = "encrypted; unpack it yourself" if entry.flag_bits & 1 else ""
    odd = "a link; refused" if stat.S_ISLNK(entry.external_attr >> 16) else odd
    return _Member(entry, entry.filename, entry.file_size, odd)


def _of_tar(entry: tarfile.TarInfo) -> _Member:
    odd = "" if entry.isfile() or entry.isdir() else "a link or a device; refused"
    return _Member(entry, entry.name, entry.size, odd)


def _checked(archive: Path, folder: Path, members: Iterable[_Member]) -> list[Any]:
    """The entries of an archive, if all of them may be unpacked and there is room."""
    wanted = [member for member in members if not _is_junk(member.name)]
    for member in wanted:
        _check_name(member.name, archive)
        if member.odd:
            raise FetchFailed(f"{archive}: {member.name!r} is {member.odd}")
    check_space(folder, sum(member.size for member in wanted), source=str(archive))
    return [member.entry for member in wanted]


def _is_junk(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part in _JUNK or part.startswith("._") for part in parts)


def _check_name(name: str, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
        raise FetchFailed(f"{archive}: {name!r} would be written outside of its folder; refused")
    if any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
        raise FetchFailed(f"{archive}: {name[:40]!r}... is longer than a file's name can be")


def _move(source: Path, target: Path) -> None:
    """Move a file or folder; a folder that exists gets the files of the other."""
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
    elif not target.exists():
        source.replace(target)


def _both(new: Path, folder: Path) -> Iterator[str]:
    """What a folder has already, under the same name, but with another content."""
    for path in sorted(new.rglob("*")):
        target = folder / path.relative_to(new)
        if path.is_dir():
            is_other = target.is_symlink() or (target.exists() and not target.is_dir())
        else:
            is_other = target.is_symlink() or (
                target.exists() and not (target.is_file() and cmp(path, target, shallow=False))
            )
        if is_other:
            yield str(path.relative_to(new))
