"""Pictures from a list of addresses, many at a time; the dead ones are listed, not asked again."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from PIL import Image

from hadpo.data.fetch.plain import FetchFailed, Patience, Progress, download
from hadpo.records import BadInput

DEAD = "dead.jsonl"  # a line for each address that gave no picture: image_id, url, why
_NAME = re.compile(r"[\w-][\w.-]*")
_PATIENCE = Patience(retries=2, timeout_seconds=20.0)


def fetch_images(
    table: Path,
    folder: Path,
    *,
    workers: int = 16,
    patience: Patience = _PATIENCE,
    progress: Progress | None = None,
) -> Counter[str]:
    """Fetch `<image_id>.jpg` for each row of a CSV with `image_id` and `image_url`.

    Pictures that are there stay, and addresses in `dead.jsonl` are left out; delete that file to
    ask for them again.

    Returns:
        How many are "present", "fetched" and "dead".

    Raises:
        BadInput: the table has no such columns, or ids that are no file names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = dict(_rows(table))
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
    with (folder / DEAD).open("a", encoding="utf-8") as log, ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(_one, url, folder / f"{i}.jpg", patience): i for i, url in left.items()}
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


def _one(url: str, target: Path, patience: Patience) -> str:
    """Fetch one picture; "" or why there is none."""
    try:
        download(url, target, patience=patience)
        with Image.open(target) as image:
            image.verify()
    except FetchFailed as error:
        return str(error)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if not target.is_file():
            raise
        target.unlink()
        return f"no picture: {error}"
    return ""


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"image_id", "image_url"} <= set(reader.fieldnames or ()):
                raise BadInput(
                    f"{table}: found columns {reader.fieldnames}, expected image_id, image_url"
                )
            for row in reader:
                image_id, url = (row["image_id"] or "").strip(), (row["image_url"] or "").strip()
                if not image_id or not url:
                    continue  # rows without an id or an address name no picture
                if not _NAME.fullmatch(image_id):
                    raise BadInput(
                        f"{table}:{reader.line_num}: image_id {image_id!r} is no file name"
                    )
                yield image_id, url
    except FileNotFoundError as error:
        raise BadInput(f"no table {table}; fetch it first") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{table}: not a CSV file ({error}); download it again") from error


def _dead(path: Path) -> Mapping[str, str]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            found[row["image_id"]] = row["url"]
        except (ValueError, KeyError, TypeError):
            continue  # the torn last line of a run that was killed
    return found
