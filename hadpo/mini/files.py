"""Write one mini world in the official formats, so that nothing downstream knows it is drawn.

VG: image_data.json, region_descriptions.json and the images in VG_100K and VG_100K_2.
coco2014: objects.json, val2014 and annotations; the test images again, as COCO has them. The
annotations of train2014 are there, and empty.
POPE/output/coco: coco_pope_{random,popular,adversarial}.json on the test images.
RePOPE: coco_repope_{...}.json, the same questions without those about small objects.
shr: val_images_final.json of the test images; shr_factual_part1.jsonl (train) and part2 (test).
hadpo/<schema>: desc_data.json and pope_data.json about the train images, as HA-DPO released them.
cc_sbu_align: filter_cap.json and image; perfect captions of train images.
humour: the same layout; jokes about the train images, as Oxford HIC is converted.
gavie: evaluation_set.json of the test images; chair: synonyms.txt of the world's objects.
gqa: questions.json about the test images, each with its one right answer.
mmhal, hallusion, amber, objhal: those benchmarks' own files about the test images.
split.json: ids of the train and the test images.
truth.json: what is really in every image, and every true sentence about it.
vocabulary.json: the words of the world and the templates of its sentences.
"""

import json
import logging
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hadpo.data.pope import SPLITS, path_of, pope_questions, text_of
from hadpo.mini import faults
from hadpo.mini.captions import TEMPLATES, facts, perfect_caption, true_sentences, with_article
from hadpo.mini.draw import draw, sprite
from hadpo.mini.instructions import (
    amber_files,
    gqa_questions,
    hallusion_questions,
    instructions,
    jokes,
    mmhal_questions,
)
from hadpo.mini.world import (
    CATEGORIES,
    COLOURS,
    IMAGE_SIZE_PIXELS,
    PLACES,
    SETTINGS,
    Scene,
    SceneObject,
    cell,
    scenes,
)
from hadpo.records import BadInput, read_json

log = logging.getLogger(__name__)

VERSION = 6  # raise it when the same arguments give another world
FIRST_IMAGE_ID = 2400001
FIRST_REGION_ID = 5400001
AUXILIARY_IMAGES = 60  # perfect captions in cc_sbu_align
JOKES = 2  # of each train image
JPEG_QUALITY = 95
CAPTIONS_PER_IMAGE = 2
DRAWN_ON = "2026-01-01 00:00:00"  # fixed, so that files do not change with the day
OPAQUE = 128
DONE = "mini_world.json"
Scenes = dict[int, Scene]  # image id -> scene
Box = tuple[int, int, int, int]


def build(folder: Path, *, seed: int, train_images: int, test_images: int) -> None:
    """Write a world into `folder`; a folder that already holds the same world is left alone.

    Args:
        folder: where to write; made if it is missing.
        seed: decides every scene; the same seed gives the same files.
        train_images: images to mine preference pairs from.
        test_images: images for POPE and SHR; none of them is a train image.

    Raises:
        BadInput: the folder holds another world, or a count below one.
    """
    if train_images < 1 or test_images < 1:
        raise BadInput(
            f"a mini world needs at least one train and one test image, found "
            f"train_images={train_images}, test_images={test_images}"
        )
    arguments = {
        "version": VERSION,
        "seed": seed,
        "train_images": train_images,
        "test_images": test_images,
    }
    mark = folder / DONE
    if mark.is_file():
        found = read_json(mark, dict, expected="delete this folder")
        if found != arguments:
            raise BadInput(
                f"{folder}: holds the mini world {found}, expected {arguments}; "
                f"choose another folder or delete this one"
            )
        return
    drawn = distinct_scenes(seed)
    train = dict(enumerate(islice(drawn, train_images), FIRST_IMAGE_ID))
    test = dict(enumerate(islice(drawn, test_images), FIRST_IMAGE_ID + train_images))
    folder.mkdir(parents=True, exist_ok=True)
    _visual_genome(folder / "VG", train | test, coco_ids=set(test))
    _coco(folder / "coco2014", test, folder / "VG")
    _pope(folder / "POPE" / "output" / "coco", test, seed)
    _shr(folder / "shr", train, test)
    faults.write_pairs(folder / "hadpo", train, seed)
    rng = random.Random(seed)
    some = islice(train.items(), AUXILIARY_IMAGES)
    perfect = {key: [perfect_caption(scene, rng)] for key, scene in some}
    _captions(folder / "cc_sbu_align", perfect, folder / "VG")
    rng = random.Random(f"{seed}/humour")
    told = {key: jokes(scene, rng, JOKES) for key, scene in train.items()}
    _captions(folder / "humour", told, folder / "VG")
    _write(folder / "gavie" / "evaluation_set.json", instructions(test, seed))
    _write(folder / "gqa" / "questions.json", gqa_questions(test))
    photos = {key: _image_name(key) for key in test}
    _write(folder / "mmhal" / "questions.json", mmhal_questions(test, photos))
    for name, content in amber_files(test, photos).items():
        _write(folder / "amber" / f"{name}.json", content)
    _write_text(folder / "amber" / "safe_words.txt", ["scene", "image"])
    lines = [{"image_id": key, "question": "Describe this image in detail."} for key in test]
    _write_lines(folder / "objhal" / "questions.jsonl", lines)
    _write(folder / "hallusion" / "HallusionBench.json", hallusion_questions(test, photos))
    _write_text(folder / "chair" / "synonyms.txt", CATEGORIES)  # each kind has one name
    _write(folder / "split.json", {"train": list(train), "test": list(test)})
    _write(folder / "truth.json", {str(key): truth(scene) for key, scene in (train | test).items()})
    _write(folder / "vocabulary.json", vocabulary())
    _write(mark, arguments)  # last: a folder without the mark is built again
    log.info("wrote a mini world of %d + %d images to %s", len(train), len(test), folder)


def distinct_scenes(seed: int) -> Iterator[Scene]:
    """Scenes the base never saw, none of them twice, so that test images are new in every sense."""
    seen = set()
    for scene in scenes(seed, held_out=True):
        content = (scene.setting, *((t.category, t.colour, t.place) for t in scene.objects))
        if content not in seen:
            seen.add(content)
            yield scene


def image_path(image_id: int) -> str:
    """Path of an image below the Visual Genome folder; the original spreads them over two."""
    return f"{'VG_100K' if image_id % 2 else 'VG_100K_2'}/{image_id}.jpg"


def truth(scene: Scene) -> dict[str, Any]:
    """Everything that is known about an image."""
    return {
        "scene": scene.setting,
        "objects": [
            {
                "category": thing.category,
                "colour": thing.colour,
                "place": thing.place,
                "box": list(thing.box),
                "is_small": thing.is_small,
            }
            for thing in scene.objects
        ],
        "sentences": true_sentences(scene),
    }


def vocabulary() -> dict[str, Any]:
    """The words a judge without a language model needs, and how sentences are made of them."""
    return {
        "objects": list(CATEGORIES),
        "attributes": {"colour": list(COLOURS), "place": list(PLACES)},
        "scenes": list(SETTINGS),
        "sentences": TEMPLATES,
    }


def _visual_genome(folder: Path, world: Scenes, *, coco_ids: set[int]) -> None:
    for name in ("VG_100K", "VG_100K_2"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images, descriptions = [], []
    region_id = FIRST_REGION_ID
    for key, scene in world.items():
        draw(scene).save(folder / image_path(key), quality=JPEG_QUALITY, subsampling=0)
        images.append(
            {
                "width": IMAGE_SIZE_PIXELS,
                "url": f"https://example.org/hadpo-mini/{image_path(key)}",
                "height": IMAGE_SIZE_PIXELS,
                "image_id": key,
                "coco_id": key if key in coco_ids else None,
                "flickr_id": None,
            }
        )
        regions = []
        for box, phrase in described_boxes(scene):
            x, y, width, height = box
            regions.append(
                {
                    "region_id": region_id,
                    "width": width,
                    "height": height,
                    "image_id": key,
                    "phrase": phrase,
                    "y": y,
                    "x": x,
                }
            )
            region_id += 1
        descriptions.append({"regions": regions, "id": key})
    _write(folder / "image_data.json", images)
    _write(folder / "region_descriptions.json", descriptions)


def described_boxes(scene: Scene) -> list[tuple[Box, str]]:
    """Box and phrase of every object, of every empty place, and of the whole scene."""
    things = [
        (thing.box, f"{with_article(f'{thing.colour} {thing.category}')} at the {thing.place}")
        for thing in scene.objects
    ]
    empty = [(cell(place), f"the {place} is empty") for place in PLACES if not scene.at(place)]
    whole = (0, 0, IMAGE_SIZE_PIXELS, IMAGE_SIZE_PIXELS)
    return [*things, *empty, (whole, f"the scene is a {scene.setting}")]


def _coco(folder: Path, test: Scenes, visual_genome: Path) -> None:
    pictures = folder / "val2014"
    pictures.mkdir(parents=True, exist_ok=True)
    for key in test:
        _same_file(visual_genome / image_path(key), pictures / _image_name(key))
    lines = [
        {"image": _image_name(key), "objects": sorted(scene.categories)}
        for key, scene in test.items()
    ]
    _write_lines(folder / "objects.json", lines)
    for part, shown in (("train2014", {}), ("val2014", test)):  # no image is of COCO's train part
        _write(folder / "annotations" / f"instances_{part}.json", _coco_instances(shown))
        _write(folder / "annotations" / f"captions_{part}.json", _coco_captions(shown))


def _pope(folder: Path, test: Scenes, seed: int) -> None:
    objects = {str(key): scene.categories for key, scene in test.items()}
    names = {str(key): _image_name(key) for key in test}
    for split in SPLITS:
        questions = pope_questions(objects, split=split, seed=seed, image_paths=names)
        lines = [
            {"question_id": number, "image": q.image, "text": q.text, "label": q.label}
            for number, q in enumerate(questions, start=1)
        ]
        _write_lines(path_of(folder, split), lines)
        # No label of this world is wrong; what is hard to see is left out, as RePOPE does.
        small = {
            (_image_name(key), text_of(thing.category))
            for key, scene in test.items()
            for thing in scene.objects
            if thing.is_small
        }
        left = [line for line in lines if (line["image"], line["text"]) not in small]
        _write_lines(path_of(folder.parents[2] / "RePOPE", split, "repope"), left)


def _shr(folder: Path, train: Scenes, test: Scenes) -> None:
    _write(
        folder / "val_images_final.json",
        [
            {"image_id": key, "width": IMAGE_SIZE_PIXELS, "height": IMAGE_SIZE_PIXELS}
            for key in test
        ],
    )
    # The train images have facts as well: true sentences to put in place of invented ones.
    for part, some in enumerate((train, test), start=1):
        lines = [{str(key): facts(scene)} for key, scene in some.items()]
        _write_lines(folder / f"shr_factual_part{part}.jsonl", lines)


def _captions(folder: Path, captions: Mapping[int, list[str]], visual_genome: Path) -> None:
    """The layout of MiniGPT-4's second stage."""
    (folder / "image").mkdir(parents=True, exist_ok=True)
    for key in captions:
        _same_file(visual_genome / image_path(key), folder / "image" / f"{key}.jpg")
    annotations = [
        {"image_id": str(key), "caption": text} for key, texts in captions.items() for text in texts
    ]
    _write(folder / "filter_cap.json", {"annotations": annotations})


def _same_file(source: Path, target: Path) -> None:
    """One file under two names where the file system allows it, else a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_lines(path: Path, values: Iterable[Any]) -> None:
    _write_text(path, map(json.dumps, values))


def _write_text(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _image_name(image_id: int) -> str:
    """COCO's name of a validation image."""
    return f"COCO_val2014_{image_id:012d}.jpg"


def _coco_instances(test: Mapping[int, Scene]) -> dict[str, Any]:
    """The content of `instances_val2014.json`: one annotation per object, its outline a polygon."""
    categories = [
        {"supercategory": "thing", "id": number, "name": name}
        for number, name in enumerate(CATEGORIES, start=1)
    ]
    number_of = {entry["name"]: entry["id"] for entry in categories}
    annotations: list[dict[str, Any]] = []
    for key, scene in test.items():
        for thing in scene.objects:
            outline, area = _outline(thing)
            xs, ys = outline[::2], outline[1::2]
            annotations.append(
                {
                    "segmentation": [outline],
                    "area": float(area),
                    "iscrowd": 0,
                    "image_id": key,
                    "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                    "category_id": number_of[thing.category],
                    "id": len(annotations) + 1,
                }
            )
    return {**_heading(test), "annotations": annotations, "categories": categories}


def _coco_captions(test: Mapping[int, Scene]) -> dict[str, Any]:
    """The content of `captions_val2014.json`: perfect captions that mention other empty places."""
    annotations: list[dict[str, Any]] = []
    for key, scene in test.items():
        for turn in range(CAPTIONS_PER_IMAGE):
            caption = perfect_caption(scene, random.Random(f"{key}/{turn}"))
            annotations.append({"image_id": key, "id": len(annotations) + 1, "caption": caption})
    return {**_heading(test), "annotations": annotations}


def _heading(test: Mapping[int, Scene]) -> dict[str, Any]:
    images = [
        {
            "license": 1,
            "file_name": _image_name(key),
            "coco_url": f"https://example.org/hadpo-mini/{_image_name(key)}",
            "height": IMAGE_SIZE_PIXELS,
            "width": IMAGE_SIZE_PIXELS,
            "date_captured": DRAWN_ON,
            "flickr_url": "",
            "id": key,
        }
        for key in test
    ]
    info = {
        "description": "hadpo mini world",
        "url": "",
        "version": "1.0",
        "year": 2026,
        "contributor": "hadpo",
        "date_created": DRAWN_ON,
    }
    licenses = [
        {"url": "https://www.apache.org/licenses/LICENSE-2.0", "id": 1, "name": "Apache-2.0"}
    ]
    return {"info": info, "images": images, "licenses": licenses}


def _outline(thing: SceneObject) -> tuple[list[float], int]:
    """Corners (x, y, x, y, ...) of a polygon around an object's pixels, and how many these are."""
    cut = sprite(thing.category, thing.colour, thing.size_pixels, thing.is_mirrored)
    is_opaque = np.asarray(cut)[:, :, 3] >= OPAQUE
    left_side, right_side = [], []
    for y in np.flatnonzero(is_opaque.any(axis=1)):
        xs = np.flatnonzero(is_opaque[y])
        left_side.append((thing.x + xs[0], thing.y + y))
        right_side.append((thing.x + xs[-1] + 1, thing.y + y + 1))
    corners = [*left_side, *reversed(right_side)]
    return [float(value) for corner in corners for value in corner], int(is_opaque.sum())
