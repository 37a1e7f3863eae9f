"""The mini twins: one tiny model of every other backbone family; here is what differs, as data.

Everything goes through the families' own classes: a twin is written in its authors' layout, read by
`from_original`, trained there, and written again.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hadpo import backbones
from hadpo.backbones import instructblip, minigpt4, mplug_owl
from hadpo.mini.captions import DESCRIPTION_QUESTIONS, presence_question
from hadpo.mini.world import CATEGORIES, PLACES
from hadpo.vlm import vision
from hadpo.vlm.backbone import Backbone
from tools.train_mini.vision import GRID, IMAGE_SIZE_PIXELS

WIDTH = 128
EVA_FOLDER = "eva"  # shared by all that look through EVA
OWL_FOLDER = "mplug-owl-llama-mini"
EVA = vision.EvaSizes(
    image_size=IMAGE_SIZE_PIXELS, patch_size=16, width=128, depth=3, heads=4, mlp_width=256
)
# The top left patch of each place: of whatever a query is asked to hold, that is the label.
_PLACE_PATCHES = tuple(2 * (place // 3) * GRID + 2 * (place % 3) for place in range(len(PLACES)))
QFORMER = {"queries": 9, "width": 128, "depth": 2, "heads": 4, "mlp_width": 256, "positions": 64}


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What differs between the twins."""

    family: Any  # module with `from_original`
    variant: str
    language_from: str  # whose language model it starts from: "llava", or the clean stage of a twin
    patches: tuple[int, ...]  # the patch whose content each image token should hold
    qformer: str = ""  # name of the Q-Former's file
    connector: str = ""  # name of the connector's file


TWINS = {
    "minigpt4": Twin(
        family=minigpt4,
        variant="llama2",
        language_from="llava",
        # A token holds four patches in reading order, of which the first stand in every place once:
        # 0, 4 and 8 lie left, right and in the middle of a grid that is six patches wide.
        patches=tuple(range(0, GRID * GRID, 4)),
        connector="pretrained_minigpt4_llama2_mini.pth",
    ),
    "minigpt4-vicuna0": Twin(
        family=minigpt4,
        variant="vicuna0",
        language_from="minigpt4",
        patches=_PLACE_PATCHES,
        qformer="blip2_pretrained_mini.pth",
        connector="prerained_minigpt4_mini.pth",  # spelt as its authors spell it
    ),
    "instructblip": Twin(
        family=instructblip,
        variant="vicuna7b",
        language_from="minigpt4",
        patches=_PLACE_PATCHES,
        qformer="instruct_blip_vicuna_mini_trimmed.pth",
    ),
    "mplug-owl": Twin(
        family=mplug_owl,
        variant="llama-7b",
        language_from="llava",
        patches=_PLACE_PATCHES,
    ),
}


def prompt_texts() -> list[str]:
    """The words around instructions in all families, cut where tokenizers cut them."""
    prompts = [twin.family.VARIANTS[twin.variant].prompts for twin in TWINS.values()]
    texts = [template.text for pair in prompts for template in (pair.train, pair.evaluate)]
    return sorted({part.strip() for text in texts for part in _CUT.split(text)} - {""})


_CUT = re.compile(r"<s>|</s>|<image>|<\|>|\{instruction\}|\n|(?=###)")


def vocabulary() -> list[str]:
    """BERT's kind of vocabulary for the Q-Former: the words of all instructions, and letters."""
    asked = [*DESCRIPTION_QUESTIONS, *(presence_question(name) for name in CATEGORIES)]
    asked += ["What is at the ?", "Where is the ?", *PLACES]
    found = {word.lower() for line in asked for word in re.findall(r"\w+|[^\w\s]", line)}
    letters = [chr(code) for code in (*range(ord("a"), ord("z") + 1), *range(48, 58))]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*marks, *sorted({*found, *letters}), *(f"##{letter}" for letter in letters)]


def files(folder: Path, name: str, eva: Path) -> dict[str, Path]:
    """Parts of a twin that lies in `folder`, by name."""
    twin = TWINS[name]
    if twin.family is mplug_owl:
        return {"language_model": folder / OWL_FOLDER}
    parts = {"language_model": folder / "llama", "vision": eva / "eva_vit_g.pth"}
    if twin.qformer:
        parts["qformer"] = folder / twin.qformer
    if twin.connector:
        parts["connector"] = folder / twin.connector
    if twin.family is instructblip:
        parts["bert"] = folder / "bert"
    return parts


def read(folder: Path, name: str, eva: Path) -> Backbone:
    """A twin in float32."""
    twin = TWINS[name]
    family = twin.family.__name__.rpartition(".")[2]
    parts = files(folder, name, eva)
    return backbones.load(f"{family}/{twin.variant}", parts, dtype="float32", device="cpu")
