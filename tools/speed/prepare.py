"""Time and memory of reading, filtering and converting instruction data: `tools.speed prepare`.

Synthetic files of the originals' shapes are written first. Each measurement runs in a process of
its own, on one thread, so that its peak memory is its own.
"""

import csv
import json
import logging
import os
import platform
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from hadpo.data import Report, hic, lrv
from hadpo.data.images import ImageChecks
from hadpo.instructions import lrv as instructions_lrv
from hadpo.instructions.hic import HicSettings, convert, language_filter, profanity_filter
from hadpo.instructions.lrv import FilterSettings
from hadpo.records import write_text
from tools.speed import measure, results
from tools.speed.machine import processor

log = logging.getLogger(__name__)

FOLDER = Path("runs/speed-prepare")
LRV_SIZES = (30_000, 100_000, 300_000)
HIC_SIZES = (100_000, 300_000, 1_000_000)
PER_IMAGE = {"lrv": 12, "hic": 20}  # records of one image, about as released
WORDING = 50_000  # captions for the filters of language and profanity
_WORDS = (
    *("the", "a", "red", "dog", "cup", "tree", "man", "woman", "walks", "runs", "sits", "under"),
    *("over", "near", "small", "funny", "very", "because", "never", "looks", "like", "holds"),
    *("and", "but", "his", "her", "best", "friend", "monday", "morning", "coffee", "cat"),
)


def command(
    folder: Annotated[Path, typer.Option(help="for the synthetic files")] = FOLDER,
    out: Annotated[
        Path | None, typer.Option(help="for prepare.json and prepare.png; default: runs/speed")
    ] = None,
    share: Annotated[float, typer.Option(help="of the sizes, to try it out")] = 1.0,
    publish: results.Publish = False,
) -> None:
    """Time and memory of reading, filtering and converting data, at growing sizes.

    Example: python -m tools.speed prepare --share 0.01
    """
    place, folder = results.folder_for(out, publish=publish), folder.resolve()
    found = []
    for what, (_, sizes) in _PLAN.items():
        for full in sizes:
            size = max(100, round(full * share))
            _write(what.partition(" ")[0], size, folder)
            command = measure.one("prepare", what, str(size), str(folder))
            found.append(measure.in_own_process(command))
            log.warning("%s", found[-1])
    machine = {"cpu": processor(), "cores_used": 1, "python": platform.python_version()}
    results.save_json({"machine": machine, "measured": found}, place / "prepare.json")
    _draw(found, place / "prepare.png")


def one(what: str, size: str, folder: str) -> None:
    """Measure one size in this process, and print what was found."""
    typer.echo(json.dumps(_measure(what, int(size), Path(folder))))


def _measure(what: str, size: int, folder: Path) -> dict[str, Any]:
    data = folder / f"{what.partition(' ')[0]}-{size}"
    start, cpu = time.perf_counter(), time.process_time()
    count = _PLAN[what][0](data)
    return {
        "what": what,
        "records": size,
        "kept": count,
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "records_per_cpu_second": round(size / (time.process_time() - cpu)),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _read_lrv(data: Path) -> int:
    return sum(1 for _ in lrv.read(data / "filter_cap.json", data / "image", Report()))


def _convert_lrv(data: Path) -> int:
    records = lrv.read(data / "filter_cap.json", data / "image", Report())
    settings = FilterSettings(max_answer_words=30, negative_share=0.4, val_share=0.02)
    counts = instructions_lrv.convert(records, data / "out", settings, Report())
    return sum(n for key, n in counts.items() if key.startswith("records of"))


def _read_hic(data: Path) -> int:
    return sum(1 for _ in hic.read(data / "oxford_hic_data.csv", Report()))


def _convert_hic(data: Path) -> int:
    settings = HicSettings(
        min_score=1, top_k=10, min_words=3, max_words=30, val_share=0.02, weighting="log"
    )
    checked = ImageChecks(
        data / "images.sqlite"
    )  # the images were looked at before: see "hic images"
    counts = convert(
        data / "oxford_hic_data.csv",
        data / "image",
        data / "out",
        settings,
        Report(),
        checked=checked,
    )
    return sum(n for key, n in counts.items() if key.startswith("captions of"))


def _look_at_images(data: Path) -> int:
    paths = sorted((data / "image").iterdir())
    found = ImageChecks(data / "images.sqlite").findings(paths)
    return sum(not verdict.problem for verdict in found.values())


def _captions(data: Path) -> list[str]:
    return [row.caption for row in hic.read(data / "oxford_hic_data.csv", Report())]


def _language(data: Path) -> int:
    return sum(map(language_filter({"en"}), _captions(data)))


def _profanity(data: Path) -> int:
    are_clean, texts = profanity_filter(), _captions(data)
    return sum(sum(are_clean(texts[at : at + 5000])) for at in range(0, len(texts), 5000))


_PLAN: dict[str, tuple[Callable[[Path], int], tuple[int, ...]]] = {
    "lrv read": (_read_lrv, LRV_SIZES),
    "lrv read, filter, convert": (_convert_lrv, LRV_SIZES),
    "hic read": (_read_hic, HIC_SIZES),
    "hic images": (_look_at_images, HIC_SIZES),
    "hic read, filter, convert": (_convert_hic, HIC_SIZES),
    "hic language": (_language, (WORDING,)),
    "hic profanity": (_profanity, (WORDING,)),
}


def _write(source: str, size: int, folder: Path) -> None:
    """The synthetic files of one size, if they are not there."""
    data = folder / f"{source}-{size}"
    if (data / "done").is_file():
        return
    images = max(1, size // PER_IMAGE[source])
    (data / "image").mkdir(parents=True, exist_ok=True)
    Image.effect_noise((96, 96), 60).convert("RGB").save(data / "image" / "0.jpg")
    for number in range(1, images):
        place = data / "image" / f"{number}.jpg"
        if not place.exists():
            os.link(data / "image" / "0.jpg", place)
    (_write_lrv if source == "lrv" else _write_hic)(data, size, images)
    write_text(data / "done", "")


def _write_lrv(data: Path, size: int, images: int) -> None:
    draw = random.Random(size)
    with (data / "filter_cap.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for number in range(size):
            value = {"image_id": str(number % images), "question": _sentence(draw, 9) + "?"}
            value |= {"answer": _sentence(draw, 18) + "."}
            value |= {"task": "negative" if draw.random() < 0.4 else "Image Captioning"}
            file.write((",\n" if number else "") + json.dumps(value))
        file.write("]")


def _write_hic(data: Path, size: int, images: int) -> None:
    draw = random.Random(size)
    with (data / "oxford_hic_data.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(("image_id", "caption", "funny_score"))
        out.writerows(_hic_rows(draw, size, images))


def _hic_rows(draw: random.Random, size: int, images: int) -> Iterator[tuple[str, str, str]]:
    for _ in range(size):
        votes = int(draw.paretovariate(0.7)) - 1
        yield str(draw.randrange(images)), _sentence(draw, 11) + ".", f"{min(votes, 99_999):,}"


def _sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(_WORDS, k=draw.randint(max(1, words - 5), words + 5))).capitalize()


def _draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """CPU seconds and peak memory against size, on logarithmic axes."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for what in [name for name, (_, sizes) in _PLAN.items() if len(sizes) > 1]:
        rows = [row for row in found if row["what"] == what]
        sizes = [row["records"] for row in rows]
        left.plot(sizes, [row["cpu_seconds"] for row in rows], marker="o", label=what)
        right.plot(sizes, [row["peak_mb"] for row in rows], marker="o", label=what)
    sizes = sorted({row["records"] for row in found})
    left.plot(
        sizes, [n / 20_000 for n in sizes], color="#8c8c8c", ls="--", label="20,000 records/s"
    )
    right.axhline(500, color="#8c8c8c", ls="--", label="500 MB")
    left.set(xscale="log", yscale="log", xlabel="records", ylabel="CPU seconds")
    right.set(xscale="log", xlabel="records", ylabel="peak memory, MB", ylim=(0, 550))
    left.legend(fontsize=7)
    right.legend(fontsize=7)
    drawing.savefig(path, dpi=150)
