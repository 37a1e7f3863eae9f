"""The model hub and Google Drive, each through its own client: resumed, and checked."""

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hadpo.data.fetch.plain import (
    STANDARD,
    FetchFailed,
    Patience,
    Progress,
    accept,
    check_space,
    other_than_published,
)

_USELESS = ["*.md", ".gitattributes", "*.h5", "*.msgpack", "*.onnx", "*.png", "*.jpg", "*.gguf"]
_TWICE = {  # what holds the same weights again -> what is taken instead
    "pytorch_model*.bin*": "model*.safetensors",
    "adapter_model.bin": "adapter_model.safetensors",
}
_QUOTA = ("too many users", "quota exceeded", "cannot view or download")


def snapshot(
    repository: str, target: Path, *, kind: str = "model", patterns: Sequence[str] = ()
) -> None:
    """Fetch a repository of the hub, or those of its files that fit `patterns`, into a folder.

    FetchFailed: not found, to be accepted first, no network, no room, or a wrong checksum.
    """
    # Imported here: its import takes a while.
    from huggingface_hub import HfApi, constants, snapshot_download

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    with _hub_errors(page):
        info = HfApi().repo_info(repository, repo_type=kind, files_metadata=True)
        wanted = {
            file.rfilename: file
            for file in getattr(info, "siblings", None) or ()
            if (not patterns or _fits(file.rfilename, patterns))
            and not _fits(file.rfilename, _USELESS)
        }
        if not wanted:
            raise FetchFailed(f"{page}: none of its files is {', '.join(patterns)}")
        for again, better in _TWICE.items():
            if any(fnmatch.fnmatch(name, better) for name in wanted):
                wanted = {n: f for n, f in wanted.items() if not fnmatch.fnmatch(n, again)}
        left = {name: f for name, f in wanted.items() if _size(target / name) != f.size}
        check_space(target, sum(f.size or 0 for f in left.values()), source=page)
        for name in left:  # the client goes by times and would keep a file that was spoilt just now
            (target / name).unlink(missing_ok=True)
        snapshot_download(
            repository,
            repo_type=kind,
            revision=info.sha,
            local_dir=target,
            allow_patterns=sorted(wanted),
        )
    for name, file in wanted.items():  # a size is published of every file, a hash of large ones
        sha256 = getattr(file.lfs, "sha256", "") or ""
        if problem := other_than_published(target / name, size=file.size or 0, sha256=sha256):
            (target / name).unlink()
            raise FetchFailed(f"{page}: {name}: {problem}; it was deleted, try again")


def refusal(repository: str, *, kind: str = "model") -> str:
    """Why the hub would not give a repository to who asks now, and what to do; "" if it would.

    Only what a person must do is told here: a hub that does not answer is met again in `snapshot`.
    """
    from huggingface_hub import HfApi, constants, errors

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    try:
        with _hub_errors(page):
            HfApi().auth_check(repository, repo_type=kind)
    except FetchFailed as error:
        return str(error) if isinstance(error.__cause__, errors.GatedRepoError) else ""
    return ""


@contextmanager
def _hub_errors(page: str) -> Iterator[None]:
    """A block whose errors of the hub's client become `FetchFailed`, with what to do."""
    import httpx2
    from huggingface_hub import constants, errors

    try:
        if constants.HF_HUB_OFFLINE:
            raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        yield
    except errors.GatedRepoError as error:
        raise FetchFailed(
            f"{page}: its licence must be accepted first: open that page, log in, accept it, wait "
            "until access is granted; then `hf auth login`, or set HF_TOKEN, and try again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FetchFailed(
            f"{page}: no such repository, or a private one; if it is yours, `hf auth login` first"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise FetchFailed(
            f"{page}: the hub is switched off; unset HF_HUB_OFFLINE to fetch"
        ) from error
    except (
        *(errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx2.HTTPError),
        *(OSError, ValueError),
    ) as error:
        raise FetchFailed(
            f"{page}: the hub does not give it ({_reason(error)}); the same command goes on from "
            "there"
        ) from error


def drive_file(
    file_id: str,
    target: Path,
    *,
    size: int = 0,
    sha256: str = "",
    about: int = 0,
    patience: Patience = STANDARD,
    progress: Progress | None = None,
) -> None:
    """Fetch a public file of Drive; resumed, and through the page that asks to confirm large ones.

    `about` are bytes to keep room for; for the rest see `plain.download`. FetchFailed: Drive
    refuses (quota, no longer public), or the file is another one.
    """
    import gdown

    page = f"https://drive.google.com/file/d/{file_id}/view"
    target.parent.mkdir(parents=True, exist_ok=True)
    check_space(target.parent, size or about, source=page)
    part = target.with_name(target.name + ".part")
    report = (lambda have, total: progress(have, total or 0)) if progress else None
    with _drive_errors(page, target):
        gdown.download(
            id=file_id,
            output=str(part),
            quiet=True,
            resume=True,
            use_cookies=False,
            progress=report,
            retries=patience.retries,
            timeout=patience.timeout_seconds,
        )
    accept(part, source=page, size=size, sha256=sha256)
    part.replace(target)


def drive_folder(folder_id: str, target: Path, *, about: int = 0) -> None:
    """Fetch all files of a public folder of Drive; those that exist stay.

    Raises as `drive_file`.
    """
    import gdown

    page = f"https://drive.google.com/drive/folders/{folder_id}"
    target.mkdir(parents=True, exist_ok=True)
    check_space(target, about, source=page)
    with _drive_errors(page, target):
        files = gdown.download_folder(
            id=folder_id, output=str(target), quiet=True, resume=True, use_cookies=False
        )
    if not files:
        raise FetchFailed(f"{page}: Drive lists no files in it; look at it in a browser")


@contextmanager
def _drive_errors(page: str, target: Path) -> Iterator[None]:
    """A block whose errors of Drive's client become `FetchFailed`, with what to do."""
    import gdown
    from requests import RequestException

    try:
        yield
    except (gdown.exceptions.DownloadError, RequestException, OSError, LookupError) as error:
        reason = _reason(error)
        by_hand = f"or open it in a browser, and save it as {target}: the same command checks it"
        if any(word in reason.lower() for word in _QUOTA):
            raise FetchFailed(
                f"{page}: Drive's quota for this file is used up ({reason}); try again in 24 "
                f"hours, {by_hand}"
            ) from error
        raise FetchFailed(
            f"{page}: Drive does not give it ({reason}); try again, {by_hand}"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
