"""A prompt and its image, read by a class of transformers up to where its decoder is called.

What arrives there is all that the class makes of a prompt: embeddings, positions, masks, and what
is added inside the decoder. So nothing about a class is written here; what this file does not know
it refuses. Embeddings, tower and connector are frozen: all of it runs without gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hadpo.records import BadInput
from hadpo.vlm.decoder import is_near

_READ = {"inputs_embeds", "position_ids", "attention_mask"}
_READ |= {"visual_pos_masks", "deepstack_visual_embeds"}  # Qwen3-VL: added behind early layers
_FIELDS = ("pooler_output", "deepstack_features")  # of what `get_image_features` gives


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A prompt with its image, as the decoder gets it."""

    embeds: Float[Tensor, "length width"]
    positions: Int[Tensor, "axes length"]
    masks: Mapping[str, Bool[Tensor, "length length"]]  # by kind of layer; True: seen
    visual: Bool[Tensor, " length"] | None  # where the deepstack adds
    deepstack: tuple[Float[Tensor, "visual width"], ...]  # one per early layer

    @property
    def next_position(self) -> int:
        """Of the first token of an answer, on every axis."""
        return int(self.positions.max()) + 1

    @property
    def is_causal(self) -> bool:
        """Whether every position sees all before it, and none behind it."""
        return all(
            bool((mask == torch.ones_like(mask).tril()).all()) for mask in self.masks.values()
        )

    def sees_beyond(self, cut: int) -> bool:
        """Whether a position before `cut` sees one behind it, so that the two are read together."""
        return any(bool(mask[:cut, cut:].any()) for mask in self.masks.values())


class _Reached(Exception):
    """What was to be seen has been seen; the rest of the pass is not needed."""


@torch.no_grad()
def read(
    inner: Any,
    decoder: nn.Module,
    row: Mapping[str, Tensor],
    *,
    kinds: Mapping[str, int],
    features: Mapping[str, Tensor],
) -> Reading:
    """Run a class's own code on a row until it calls its decoder.

    Args:
        inner: the model without its head.
        decoder: a module below it.
        row: what the processor made of prompt and image, on the model's device.
        kinds: the decoder's kinds of layer -> their window in positions; 0: none.
        features: of `see`, in the place of the vision tower's.

    Raises:
        BadInput: the decoder is not called, or is given something that this file does not know.
    """
    given: dict[str, Any] = {}

    def stop(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        given.update(named)
        raise _Reached

    hook = decoder.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with _instead(inner, lambda *arguments, **named: _joined(features)):
            inner(**row, use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = None  # of this row; no later pass may go on from it
    name = type(inner).__name__
    embeds = given.get("inputs_embeds")
    if embeds is None:
        raise BadInput(
            f"{name} does not read images as tokens of its decoder; this backbone cannot"
        )
    strange = [key for key, value in given.items() if key not in _READ and _has_tensor(value)]
    if strange:
        raise BadInput(
            f"{name} passes {', '.join(strange)} to its decoder, which this backbone does not "
            f"know; transformers {transformers.__version__}"
        )
    length, device = embeds.shape[1], embeds.device
    positions = given.get("position_ids")
    if positions is None:
        positions = torch.arange(length, device=device)
    positions = positions.reshape(-1, length)
    masks, mask = {}, given.get("attention_mask")
    for kind, window in kinds.items():
        own = mask.get(kind) if isinstance(mask, Mapping) else mask
        if own is None or own.ndim == 2:
            seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        else:
            seen = (own if own.dtype == torch.bool else own == 0)[0, 0]
        if window and (own is None or not isinstance(mask, Mapping)):
            seen = seen & is_near(positions[:1], positions[:1], window)[0, 0]
        masks[kind] = seen
    visual = given.get("visual_pos_masks")
    return Reading(
        embeds=embeds[0],
        positions=positions,
        masks=masks,
        visual=None if visual is None else visual[0],
        deepstack=tuple(given.get("deepstack_visual_embeds") or ()),
    )


@torch.no_grad()
def see(inner: nn.Module, row: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the vision tower and the connector make of the image in a row, by its place in there.

    Raises:
        BadInput: the class does not ask for it.
    """
    own: Any = getattr(inner, "get_image_features", None)
    found: list[Any] = []

    def keep(*arguments: Any, **named: Any) -> None:
        found.append(own(*arguments, **named))
        raise _Reached

    try:
        with _instead(inner, keep):
            inner(**row, use_cache=False)
    except _Reached:
        pass
    if own is None or not found:
        raise BadInput(
            f"{type(inner).__name__} does not read images as tokens of its decoder; this "
            "backbone cannot"
        )
    parts = {name: getattr(found[0], name, None) for name in _FIELDS}
    return dict(_leaves({name: part for name, part in parts.items() if part is not None}))


@contextmanager
def _instead(inner: nn.Module, function: Any) -> Iterator[None]:
    """Within it, the class asks `function` for the features of an image."""
    vars(inner)["get_image_features"] = function
    try:
        yield
    finally:
        vars(inner).pop("get_image_features", None)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested values, by their path: "deepstack_features.0.1"."""
    if isinstance(value, Tensor):
        yield path, value
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))


def _joined(leaves: Mapping[str, Tensor]) -> SimpleNamespace:
    """What `_leaves` took apart."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *above, last = path.split(".")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    return SimpleNamespace(**{name: _as_list(node) for name, node in tree.items()})


def _as_list(node: Any) -> Any:
    if isinstance(node, Tensor):
        return node
    return [_as_list(node[key]) for key in sorted(node, key=int)]


def _has_tensor(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
