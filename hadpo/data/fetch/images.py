"""Pictures from a list of addresses, many at a time; the dead ones are listed, not tried again."""

import ipaddress
import json
import re
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from hadpo.data import Report, read_csv
from hadpo.data.fetch.plain import FetchFailed, Patience, Progress, download
from hadpo.images import open_image
from hadpo.records import BadInput

DEAD = "dead.jsonl"  # a line for each address that gave no picture: image_id, url, why
_EXPECTED = "expected image_id, image_url: fetch the table first, or again"
_NAME = re.compile(r"[\w-][\w.-]{0,99}")  # a file's name, without its ending
_MOST_BYTES = 50e6  # of one picture
_PATIENCE = Patience(retries=2, timeout_seconds=20.0)
_MOST_SECONDS = 300.0  # of one attempt


def fetch_images(
    table: Path,
    folder: Path,
    *,
    workers: int = 16,
    patience: Patience = _PATIENCE,
    progress: Progress | None = None,
) -> Counter[str]:
    """Fetch `<image_id>.jpg` for each row of a CSV with `image_id` and `image_url`.

    Pictures that exist stay, and addresses in `dead.jsonl` are left out; delete that file to
    try them again.

    Returns:
        How many are "present", "fetched" and "dead".

    Raises:
        BadInput: the table has no such columns, or ids that are no file names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    wanted = addresses(table, report)
    report.finish()
    dead = _dead(folder / DEAD)
    counts = Counter(present=0, fetched=0, dead=0)
    left = {}
    for image_id, url in wanted.items():
        if (folder / f"{image_id}.jpg").is_file():
            counts["present"] += 1
        elif dead.get(image_id) == url:
            counts["dead"] += 1
        else:
            left[image_id] = url
    patience = replace(patience, most_seconds=min(patience.most_seconds, _MOST_SECONDS))
    is_own = _is_own_server(wanted.values())
    with (folder / DEAD).open("a", encoding="utf-8") as log, ThreadPoolExecutor(workers) as pool:
        jobs = {
            pool.submit(_one, url, folder / f"{i}.jpg", patience, is_own=is_own): i
            for i, url in left.items()
        }
        for job in as_completed(jobs):
            why = job.result()
            counts["dead" if why else "fetched"] += 1
            if why:
                line = {"image_id": jobs[job], "url": left[jobs[job]], "why": why}
                log.write(json.dumps(line) + "\n")
                log.flush()
            if progress:
                progress(counts.total(), len(wanted))
    return counts


def _one(url: str, target: Path, patience: Patience, *, is_own: bool) -> str:
    """Fetch one picture; "" or why there is none."""

    def may_ask(address: str) -> str:
        is_named = is_own and _origin(address) == _origin(url)
        return "" if is_named and _is_loopback(address) else _private(address)

    try:
        download(url, target, most_bytes=_MOST_BYTES, may_ask=may_ask, patience=patience)
        with open_image(target) as image:
            image.verify()
    except FetchFailed as error:
        return str(error)
    except BadInput as error:
        target.unlink()
        return f"no picture: {error}"
    return ""


def _origin(url: str) -> tuple[str, int | None]:
    """Host and port of an address; ("", None) for one that cannot be read."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def _is_loopback(url: str) -> bool:
    return _origin(url)[0] in ("localhost", "127.0.0.1", "::1")


def _is_own_server(urls: Iterable[str]) -> bool:
    """Whether a list is of the user's own server on this machine, not of strangers' pictures."""
    known = [url for url in urls if _origin(url)[0]]
    return 2 * sum(map(_is_loopback, known)) >= len(known)


def _private(url: str) -> str:
    """Why an address of a strangers' list is not asked: it lies in a private network; or ""."""
    host, port = _origin(url)
    try:
        found = socket.getaddrinfo(host, port or 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # not known: the request itself says so
        return ""
    for *_, place in found:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if not address.is_global or address.is_multicast:
            return f"{host} is {address}, a private address; it is not asked"
    return ""


def addresses(table: Path, report: Report) -> dict[str, str]:
    """Address of each image by id; if an id stands twice, the first counts, and that is counted.

    Raises:
        BadInput: no such table, no CSV, or columns missing.
    """
    rows = read_csv(table, ("image_id", "image_url"), report, source="images", expected=_EXPECTED)
    by_id: dict[str, str] = {}
    for where, cells in rows:
        image_id, url = (cell.strip() for cell in cells)
        if not image_id or not url:
            report.left_out("rows without an id or an address", source="images")
        elif not _NAME.fullmatch(image_id):
            report.bad(f"{where}: image_id {image_id!r} is no file name", source="images")
        elif image_id in by_id:
            report.left_out("addresses of an id that was there", source="images")
        else:
            by_id[image_id] = url
    return by_id


def _dead(path: Path) -> Mapping[str, str]:
    dead = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            dead[row["image_id"]] = row["url"]
        except (ValueError, KeyError, TypeError):
            continue  # the torn last line of a run that was killed
    return dead
