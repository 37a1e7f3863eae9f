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
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from hadpo import config
from hadpo.data import Report, hic, lrv
from hadpo.data.images import ImageChecks
from hadpo.instructions import lrv as instructions_lrv
from hadpo.instructions.hic import HicSettings, convert, language_filter, profanity_filter
from hadpo.instructions.lrv import FilterSettings
from hadpo.records import write_text

log = logging.getLogger(__name__)

FOLDER = Path("runs/speed-prepare")
RESULTS = Path("papers_results/speed")
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
    out: Annotated[Path, typer.Option(help="for prepare.json and prepare.png")] = RESULTS,
    share: Annotated[float, typer.Option(help="of the sizes, to try it out")] = 1.0,
) -> None:
    """Time and memory of reading, filtering and converting data, at growing sizes.

    Example: python -m tools.speed prepare --share 0.01
    """
    found = []
    for what, sizes in _PLAN.items():
        for full in sizes:
            size = max(100, round(full * share))
            _write(what.partition(" ")[0], size, folder)
            found.append(_in_own_process(what, size, folder))
            log.warning("%s", found[-1])
    out.mkdir(parents=True, exist_ok=True)
    machine = {"cpu": _cpu(), "cores_used": 1, "python": platform.python_version()}
    content = {"machine": machine, "measured": found}
    write_text(out / "prepare.json", json.dumps(content, indent=1) + "\n")
    _draw(found, out / "prepare.png")


def one(what: str, size: str, folder: str) -> None:
    """Measure one size in this process, and print what was found."""
    typer.echo(json.dumps(_measure(what, int(size), Path(folder))))


def _measure(what: str, size: int, folder: Path) -> dict[str, Any]:
    data = folder / f"{what.partition(' ')[0]}-{size}"
    start, cpu = time.perf_counter(), time.process_time()
    count = _DO[what](data)
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


_DO: dict[str, Callable[[Path], int]] = {
    "lrv read": _read_lrv,
    "lrv read, filter, convert": _convert_lrv,
    "hic read": _read_hic,
    "hic images": _look_at_images,
    "hic read, filter, convert": _convert_hic,
    "hic language": _language,
    "hic profanity": _profanity,
}
_PLAN = {
    "lrv read": LRV_SIZES,
    "lrv read, filter, convert": LRV_SIZES,
    "hic read": HIC_SIZES,
    "hic images": HIC_SIZES,
    "hic read, filter, convert": HIC_SIZES,
    "hic language": (WORDING,),
    "hic profanity": (WORDING,),
}


def _in_own_process(what: str, size: int, folder: Path) -> dict[str, Any]:
    code = "import sys; from tools.speed import prepare; prepare.one(*sys.argv[1:])"
    command = [sys.executable, "-c", code, what, str(size), str(folder.resolve())]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | threads,
        cwd=config.ROOT,
    )
    return json.loads(done.stdout.splitlines()[-1])


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


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """CPU seconds and peak memory against size, on logarithmic axes."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for what in [name for name, sizes in _PLAN.items() if len(sizes) > 1]:
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
