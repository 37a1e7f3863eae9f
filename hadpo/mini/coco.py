"""The test images of a mini world as COCO annotates its own: instances and five-caption files."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from hadpo.mini.captions import perfect_caption
from hadpo.mini.draw import sprite
from hadpo.mini.world import CATEGORIES, IMAGE_SIZE_PIXELS, Scene, SceneObject

CAPTIONS_PER_IMAGE = 2
DRAWN_ON = "2026-01-01 00:00:00"  # fixed, so that files do not change with the day
OPAQUE = 128


def image_name(image_id: int) -> str:
    """COCO's name of a validation image."""
    return f"COCO_val2014_{image_id:012d}.jpg"


def instances(test: Mapping[int, Scene]) -> dict[str, Any]:
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


def captions(test: Mapping[int, Scene]) -> dict[str, Any]:
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
            "file_name": image_name(key),
            "coco_url": f"https://example.org/hadpo-mini/{image_name(key)}",
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
