"""Repositories of the model hub, through its own client: resumed, and checked file by file."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from hadpo.data.fetch.plain import FetchFailed, check_space
from hadpo.records import file_hash

_USELESS = ["*.md", ".gitattributes", "*.h5", "*.msgpack", "*.onnx", "*.png", "*.jpg", "*.gguf"]


def snapshot(
    repository: str, target: Path, *, kind: str = "model", patterns: Sequence[str] = ()
) -> None:
    """Fetch a repository, or those of its files that fit `patterns`, into the folder `target`.

    Raises:
        FetchFailed: not found, to be accepted first, no network, no room, or a wrong checksum.
    """
    # Imported here: its import takes a while.
    import httpx2
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    try:
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        found = HfApi().repo_info(repository, repo_type=kind, files_metadata=True)
        wanted = {
            file.rfilename: file
            for file in getattr(found, "siblings", None) or ()
            if (not patterns or _fits(file.rfilename, patterns))
            and not _fits(file.rfilename, _USELESS)
        }
        if not wanted:
            raise FetchFailed(f"{page}: none of its files is {', '.join(patterns)}")
        left = {name: f for name, f in wanted.items() if _size(target / name) != f.size}
        check_space(target, sum(f.size or 0 for f in left.values()), source=page)
        for name in left:  # the client goes by times and would keep a file that was spoilt just now
            (target / name).unlink(missing_ok=True)
        snapshot_download(
            repository,
            repo_type=kind,
            revision=found.sha,
            local_dir=target,
            allow_patterns=sorted(wanted),
        )
    except GatedRepoError as error:
        raise FetchFailed(
            f"{page}: its licence must be accepted first: open that page, log in, accept it, wait "
            "until access is granted; then `hf auth login`, or set HF_TOKEN, and try again"
        ) from error
    except RepositoryNotFoundError as error:
        raise FetchFailed(
            f"{page}: no such repository, or a private one; if it is yours, `hf auth login` first"
        ) from error
    except OfflineModeIsEnabled as error:
        raise FetchFailed(
            f"{page}: the hub is switched off; unset HF_HUB_OFFLINE to fetch"
        ) from error
    except (
        *(HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError),
        *(OSError, ValueError),
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FetchFailed(
            f"{page}: the hub does not give it ({reason}); the same command goes on from there"
        ) from error
    for name, file in wanted.items():
        _check(target / name, file, page)


def _check(path: Path, file: object, page: str) -> None:
    """The hub publishes a hash of every large file."""
    published = getattr(getattr(file, "lfs", None), "sha256", None)
    size = getattr(file, "size", None)
    problem = ""
    if size is not None and path.stat().st_size != size:
        problem = f"{path.stat().st_size} bytes, published are {size}"
    elif published and file_hash(path) != published:
        problem = f"wrong checksum, published is sha256 {published[:16]}..."
    if problem:
        path.unlink()
        raise FetchFailed(f"{page}: {path.name}: {problem}; it was deleted, try again")


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
