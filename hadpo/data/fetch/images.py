"""Pictures from a list of addresses, many at a time; the dead ones are listed, not tried again."""

import ipaddress
import logging
import re
import socket
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from hadpo.data import Report, read_csv
from hadpo.data.fetch.plain import FetchFailed, Patience, Progress, download
from hadpo.images import open_image
from hadpo.records import BadInput, append_jsonl, resume_jsonl

log = logging.getLogger(__name__)
DEAD = "dead.jsonl"  # a line for each address that gave no picture
_EXPECTED = "expected image_id, image_url: fetch the table first, or again"
_NAME = re.compile(r"[\w-][\w.-]{0,99}")  # a file's name, without its ending
_MOST_BYTES = 50e6  # of one picture
_PATIENCE = Patience(retries=2, timeout_seconds=20.0)
_MOST_SECONDS = 300.0  # of one attempt


@dataclass(frozen=True, kw_only=True)
class Dead:
    """An address that gave no picture."""

    image_id: str
    url: str
    why: str = ""


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
    try them again. Returns how many are "present", "fetched" and "dead".

    Raises:
        BadInput: the table has no such columns, or ids that are no file names; or a line of
            `dead.jsonl` is of another form.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    wanted = addresses(table, report)
    for what, count in report.finish().items():
        log.warning("%s: %s: %d", table, what, count)
    dead = {each.image_id: each.url for each in resume_jsonl(folder / DEAD, Dead)}
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

    def ask(image_id: str) -> Dead | None:
        url = left[image_id]
        why = _one(url, folder / f"{image_id}.jpg", patience, is_own=is_own)
        return Dead(image_id=image_id, url=url, why=why) if why else None

    with ThreadPoolExecutor(workers) as pool:
        for job in as_completed([pool.submit(ask, image_id) for image_id in left]):
            gone = job.result()
            counts["dead" if gone else "fetched"] += 1
            list(append_jsonl(folder / DEAD, [gone] if gone else []))
            if progress:
                progress(counts.total(), len(wanted))
    return counts


def _one(url: str, target: Path, patience: Patience, *, is_own: bool) -> str:
    """Fetch one picture; "" or why there is none."""

    def may_ask(address: str) -> list[str] | None:
        is_named = is_own and _origin(address) == _origin(url)
        return None if is_named and _is_loopback(address) else _public(address)

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


def _public(url: str) -> list[str]:
    """Where the host of a strangers' list is asked; FetchFailed if it lies in a private network."""
    host, port = _origin(url)
    try:
        found = socket.getaddrinfo(host, port or 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # not known: connecting says so
        return []
    places = [str(place[0]) for *_, place in found]
    for place in places:
        address = ipaddress.ip_address(place.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if not address.is_global or address.is_multicast:
            raise FetchFailed(f"{url}: {host} is {address}, a private address; it is not asked")
    return places


def addresses(table: Path, report: Report) -> dict[str, str]:
    """Address of each image by id; if an id stands twice, the first counts, and that is counted."""
    needs = ("image_id", "image_url")
    by_id: dict[str, str] = {}
    for where, row in read_csv(table, report, source="images", expected=_EXPECTED, needs=needs):
        image_id, url = (row[name].strip() for name in needs)
        if not image_id or not url:
            report.left_out("rows without an id or an address", source="images")
        elif not _NAME.fullmatch(image_id):
            report.bad(f"{where}: image_id {image_id!r} is no file name", source="images")
        elif image_id in by_id:
            report.left_out("addresses of an id that was there", source="images")
        else:
            by_id[image_id] = url
    return by_id
