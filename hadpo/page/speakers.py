"""The two models that answer side by side; base and adapter share one set of weights."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from hadpo import adapter, backbones, config
from hadpo.generation import Decoding, Turn, stream
from hadpo.plugins import choices
from hadpo.records import BadInput
from hadpo.vlm.backbone import Backbone

MINI_ADAPTER = config.PACKAGE / "mini" / "weights" / "llava" / "dpo-adapter"


@dataclass(frozen=True, eq=False)
class Speaker:
    """A model with a name; `lock` is shared with whoever shares its weights."""

    title: str
    backbone: Backbone
    lock: threading.Lock
    has_adapter: bool  # attached to the backbone, by this speaker or by the other
    is_tuned: bool  # speaks with the adapter on

    @property
    def takes_more(self) -> bool:
        """Whether a conversation may have several questions."""
        return self.backbone.PROMPTS.again is not None

    @property
    def takes_images(self) -> bool:
        """Whether a conversation may have several images."""
        return self.backbone.PROMPTS.again_image is not None

    def answer(self, turns: Sequence[Turn], decoding: Decoding) -> Iterator[tuple[str, bool]]:
        """The answer so far, after every token; between two tokens others may use the weights."""
        steps = stream(self.backbone, turns, decoding)
        while True:
            with self.lock, self._voice():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _voice(self):
        is_silenced = self.has_adapter and not self.is_tuned
        return adapter.disabled(self.backbone) if is_silenced else nullcontext()


def speakers(recipe: str, tuned: str, against: str) -> tuple[Speaker, Speaker]:
    """Who stands on the left and who on the right.

    Args:
        recipe: its model answers on both sides, or on the right one.
        tuned: an adapter's folder, or the name of a run whose adapter it is: the right side speaks
            with it. "": the one that comes with the mini weights, where the recipe is mini/llava.
        against: who stands on the left: "" is the model without its adapter; else a recipe.

    Raises:
        BadInput: no such recipe, adapter or run, files are missing, or there are no two models.
    """
    right = _load(recipe)
    folder = adapter_folder(tuned, recipe)
    if folder is None and not against:
        raise BadInput(
            f"recipe {recipe} alone is one model; name an --adapter (a folder, or a run), or "
            "another recipe with --against"
        )
    if folder is not None:
        adapter.load(right, folder)
    lock = threading.Lock()
    name = f"{right.name}, tuned" if folder else right.name
    second = Speaker(name, right, lock, folder is not None, folder is not None)
    if against:
        left = _load(against)
        return Speaker(left.name, left, threading.Lock(), False, False), second
    return Speaker(f"{right.name}, base", right, lock, True, False), second


def adapter_folder(tuned: str, recipe: str) -> Path | None:
    """The folder of an adapter that is named by itself or by its run; None where none is meant."""
    if not tuned:
        return MINI_ADAPTER if recipe == "mini/llava" else None
    places = [Path(tuned), config.runs_folder() / tuned / "train" / "adapter"]
    for place in places:
        if (place / "adapter_config.json").is_file():
            return place
    found = config.runs_folder().glob("*/train/adapter/adapter_config.json")
    names = [path.parents[2].name for path in found]
    raise BadInput(
        f"no adapter {tuned!r}: it is no folder with adapter_config.json and no run with one; "
        f"runs: {choices(tuned, names)}"
    )


def _load(name: str) -> Backbone:
    recipe = config.load_recipe(name)
    files = backbones.files_of(recipe, config.resolve_path)
    return backbones.load_for(recipe, files)
