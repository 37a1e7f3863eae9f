"""Files and folders that papers put on Google Drive, through gdown."""

from pathlib import Path

from hadpo.data.fetch.plain import STANDARD, FetchFailed, Patience, Progress, accept, check_space

_QUOTA = ("too many users", "quota exceeded", "cannot view or download")


def download_file(
    file_id: str,
    target: Path,
    *,
    size: int = 0,
    sha256: str = "",
    about: int = 0,
    patience: Patience = STANDARD,
    progress: Progress | None = None,
) -> None:
    """Fetch a public file; resumed, and through the page that asks to confirm large ones.

    Args:
        file_id: as in its link.
        target: the file.
        size: as in `plain.download`.
        sha256: as in `plain.download`.
        about: bytes to keep room for.
        patience: retries and timeout.
        progress: is told after each chunk.

    Raises:
        FetchFailed: Drive refuses (quota, no longer public), or the file is another one.
    """
    # Imported here: few need it, and its import takes a while.
    import gdown
    from requests import RequestException

    page = f"https://drive.google.com/file/d/{file_id}/view"
    target.parent.mkdir(parents=True, exist_ok=True)
    check_space(target.parent, size or about, source=page)
    part = target.with_name(target.name + ".part")
    tell = (lambda have, total: progress(have, total or 0)) if progress else None
    try:
        gdown.download(
            id=file_id,
            output=str(part),
            quiet=True,
            resume=True,
            use_cookies=False,
            progress=tell,
            retries=patience.retries,
            timeout=patience.timeout_seconds,
        )
    except (gdown.exceptions.DownloadError, RequestException, OSError, LookupError) as error:
        raise _refused(page, target, error) from error
    accept(part, source=page, size=size, sha256=sha256)
    part.replace(target)


def download_folder(folder_id: str, target: Path, *, about: int = 0) -> None:
    """Fetch all files of a public folder; those that are there already stay.

    Raises:
        FetchFailed: as in `download_file`.
    """
    import gdown
    from requests import RequestException

    page = f"https://drive.google.com/drive/folders/{folder_id}"
    target.mkdir(parents=True, exist_ok=True)
    check_space(target, about, source=page)
    try:
        found = gdown.download_folder(
            id=folder_id, output=str(target), quiet=True, resume=True, use_cookies=False
        )
    except (gdown.exceptions.DownloadError, RequestException, OSError, LookupError) as error:
        raise _refused(page, target, error) from error
    if not found:
        raise FetchFailed(f"{page}: Drive lists no files there; look at it in a browser")


def _refused(page: str, target: Path, error: Exception) -> FetchFailed:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    by_hand = f"or open it in a browser, and save it as {target}: the same command checks it"
    if any(word in reason.lower() for word in _QUOTA):
        return FetchFailed(
            f"{page}: Drive's quota for this file is used up ({reason}); try again in 24 hours, "
            + by_hand
        )
    return FetchFailed(f"{page}: Drive does not give it ({reason}); try again, {by_hand}")
