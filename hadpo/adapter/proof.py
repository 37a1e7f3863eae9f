"""The stage that merges: adapters into weights, and the proof that both say the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hadpo import backbones, batch
from hadpo.adapter import dump, files, lora
from hadpo.records import BadInput, Instruction, Pair, input_hashes, read_jsonl, write_json
from hadpo.runs import check_weights, read_manifest
from hadpo.vlm import checkpoint, export
from hadpo.vlm.backbone import Backbone

if TYPE_CHECKING:
    from hadpo.runs import Run

MERGED, ADAPTER, CONNECTOR = "merged", "adapter", "connector"
# Nats per token by which an answer's log-probability may move.
_BY_ROUNDING = 0.05  # weights of 16 bits, and a model that computes in 16 bits
_BY_MERGING = 1e-3  # float32 throughout
_LOST = 0.05  # of the effect of an adapter, or of what it adds to a layer: less is rounding
_NOISE = 2e-4  # nats per token that float32 moves in a deep model
_FLOAT32 = 1e-6  # of a layer's output, by rounding the merged weights


_MERGED_USE = """\
The weights are merged: no adapter is needed.

    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained("merged_transformers")
    processor = AutoProcessor.from_pretrained("merged_transformers")

or `vllm serve merged_transformers`. The prompt is the one of the evaluation: the chat template, or
the bare question if there is none. `<image>` has the id of `<unk>`, so that no row is added."""
_ADAPTER_USE = """\
LoRA for transformers' class of the base, in float32.

    from peft import PeftModel

    model = PeftModel.from_pretrained(base, "adapter_transformers")

or `vllm serve BASE --enable-lora --lora-modules tuned=adapter_transformers`. A connector that was
trained, too, is in the merged model only."""


def merge_run(run: Run) -> dict[str, dict[str, float]]:
    """Merge what was trained, of the run and of each control; `merged/`, `controls/*/merged/`.

    An adapter becomes part of the language model's weights, which are written anew; a connector
    alone is written beside them, in `connector/`, and the language model stays where it is. Of
    families that transformers has a class for, `merged_transformers/` holds the same, and
    `adapter_transformers/` the adapter by that class's names.

    The sum is taken in float32 of the base as it was published, whatever numbers it was trained in
    (16 bits, or quantised), and rounded once to `merged_dtype`. The proof has the adapter as peft
    itself reads its folder. Each merged layer is asked for what it makes of a random input: a lost
    update shows beside what the adapter adds there, however little that is. The written weights are
    those in memory, bit for bit once rounded. On `pairs_to_check` the log-probability of each
    answer, over its tokens, is compared: float32 base with adapter against the float32 merge in
    memory, relative to the adapter's effect, and against the merged files, loaded in the recipe's
    dtype. These are not quantised: what that would add says nothing about the merge.

    Returns:
        Training ("merged", or the control's name) -> the largest difference of any chosen or
        rejected answer, in nats per token, for each of the two comparisons; and how many pairs
        were compared.

    Raises:
        BadInput: the merged model does not say what the adapter says.
    """
    parts = backbones.files_of(run.recipe, run.resolve)
    model = run.recipe.model
    assert model is not None  # `files_of` refused a recipe without one
    settings = run.recipe.merge
    dtype = getattr(torch, settings.merged_dtype)
    pairs = pairs_to_check(run)
    sources = learned(run)
    weights = [path for places in sources.values() for path in places.values()]
    records, own = [], []
    if not settings.adapter_folder:
        check_weights(run.earlier("train"), weights)
        records = [_records(run)]
    inputs = [*records, *weights, *parts.values()]
    run.note(inputs=input_hashes(inputs, below=run.folder.parent))
    results: dict[str, dict[str, float]] = {}
    for name, places in sources.items():
        target = run.path(MERGED) if name == MERGED else run.path("controls", name, MERGED)
        device = _roomy(model.device, map(Path, parts.values()))
        given = parts | {part: path for part, path in places.items() if part == CONNECTOR}
        backbone = backbones.load(
            model.backbone, given, dtype="float32", device=device, template=model.template
        )
        effect = 0.0
        if ADAPTER in places:
            files.load(backbone, places[ADAPTER], projector=settings.adapter_projector)
            with_adapter, effect = _merge(backbone, places[ADAPTER], pairs)
        else:
            with_adapter = _logps(backbone, pairs)
        merged = _logps(backbone, pairs)
        written = _save(backbone, target, places, dtype=dtype)
        own += [target, target / CONNECTOR]
        saved = {part: str(path) for part, path in written.items()}
        folders = {"merged files": saved}
        whole = run.path("merged_transformers")
        wants_whole = name == MERGED and settings.save_transformers
        if wants_whole and backbone.save_transformers(whole, dtype=dtype):
            folders["transformers folder"] = {"language_model": str(whole)}
            _check_written(backbone, whole, backbone.HUB_KEYS)
            if ADAPTER in places:
                files.load(backbone, places[ADAPTER], projector=settings.adapter_projector)
                twin = run.path("adapter_transformers")
                files.save_for_transformers(backbone, twin, model=whole)
                _write_card(twin, backbone, _ADAPTER_USE)
            _write_card(whole, backbone, _MERGED_USE)
        del backbone
        device = _roomy(model.device, map(Path, parts.values()))
        results[name] = {"pairs compared": float(len(pairs))}
        if ADAPTER in places:
            results[name]["effect of the adapter, nats per token"] = effect
        for what, found in folders.items():
            again = backbones.load(
                model.backbone, found, dtype=model.dtype, device=device, template=model.template
            )
            loaded = _logps(again, pairs)
            del again
            results[name] |= _compare(
                with_adapter, merged, loaded, effect=effect, what=what, where=target
            )
        noted = {"files": saved, "projector": settings.adapter_projector}
        noted |= {part: str(path) for part, path in places.items()}
        fact = name if name == MERGED else f"{MERGED}_{name}"
        run.note(**{fact: noted | results[name]})
    run.note(weights=input_hashes(own, below=run.folder.parent))
    write_json(run.path("metrics.json"), results)
    return results


def _write_card(folder: Path, backbone: Backbone, use: str) -> None:
    source = backbone.declared.source
    text = f"Written by hadpo for {backbone.name}, tuned from {source}.\n\n{use}"
    export.write_card(folder, title=f"{backbone.name}, tuned", base=source.split()[0], text=text)


def _merge(
    backbone: Backbone, folder: Path, pairs: Sequence[Pair]
) -> tuple[Float[Tensor, "sides pairs"], float]:
    """Merge the attached adapter; what peft makes of its folder, and how much that changes.

    Returns:
        log-probabilities of the answers with the adapter as peft reads it, and the largest
        difference to those without an adapter; both in nats per token.

    Raises:
        BadInput: a layer lacks what peft adds there.
    """
    lora.detach(backbone)
    without = _logps(backbone, pairs)
    files.load_by_peft(backbone, folder)
    expected = _logps(backbone, pairs)
    layers = lora.adapted_layers(backbone)
    before, wanted = (lora.probe(backbone, layers, adapted=is_on) for is_on in (False, True))
    lora.detach(backbone)
    files.load(backbone, folder, projector="base")
    lora.merge(backbone)
    for name, found in lora.probe(backbone, layers).items():
        added = float((wanted[name] - before[name]).norm())
        lost = float((wanted[name] - found).norm())
        if not lost <= _LOST * added + _FLOAT32 * float(wanted[name].norm()):
            raise BadInput(
                f"{folder}: merged weights do not say what the adapter says: {name} lacks "
                f"{lost / max(added, 1e-30):.1%} of what peft adds there"
            )
    return expected, float((expected - without).abs().max()) if pairs else 0.0


def _check_written(backbone: Backbone, folder: Path, keys: Mapping[str, str]) -> None:
    """Refuse files that do not hold the weights in memory, rounded."""
    own = backbone.state_dict()
    for path in checkpoint.weight_files(folder, what=MERGED):
        for key, value in checkpoint.read_tensors(path):
            mine = own.get(checkpoint.translate(key, keys) or "")
            if mine is not None and not torch.equal(
                mine[: len(value)].to("cpu", value.dtype), value
            ):
                raise BadInput(
                    f"{path}: {key} is not what was merged: the file was changed while it was "
                    "written, or the disk lost it; merge again"
                )


def learned(run: Run) -> dict[str, dict[str, Path]]:
    """What is merged: training ("merged", or a control's name) -> adapter, connector, or both.

    A published adapter that the recipe names stands for what the run itself has trained. Out of a
    dump (a whole model, as LRV V2 was published) it is taken once, into the stage's folder.
    """
    if named := run.recipe.merge.adapter_folder:
        folder = run.resolve(named)
        if (folder / "adapter_config.json").is_file() or not _is_dump(folder):
            return {MERGED: {ADAPTER: folder}}
        own = run.path(ADAPTER)
        if not (own / "adapter_config.json").is_file():
            base = backbones.files_of(run.recipe, run.resolve)["language_model"]
            dump.from_dump(folder, Path(base), own)
        return {MERGED: {ADAPTER: own}}
    folder = run.earlier("train")
    folders = {MERGED: folder}
    for path in sorted((folder / "controls").glob("*/adapter")):
        folders[path.parent.name] = path.parent
    return {
        name: {part: at / part for part in (ADAPTER, CONNECTOR) if (at / part).is_dir()}
        for name, at in folders.items()
    }


def _is_dump(folder: Path) -> bool:
    return folder.is_file() or any(folder.glob("pytorch_model*.bin*"))


def pairs_to_check(run: Run) -> list[Pair]:
    """What trained and merged weights are compared on: the first `check_pairs` of the training.

    An instruction stands as a pair with its answer as the chosen one and an empty one beside it.
    A published adapter brings no training: it is compared on pictures that are drawn here.
    """
    if run.recipe.merge.adapter_folder:
        return [_drawn(run, number) for number in range(run.recipe.merge.check_pairs)]
    path = _records(run)
    if path.name == "pairs.jsonl":
        return list(islice(read_jsonl(path, Pair), run.recipe.merge.check_pairs))
    records = islice(read_jsonl(path, Instruction), run.recipe.merge.check_pairs)
    return [
        Pair(
            pair_id=record.instruction_id,
            image_id=record.image_id,
            image=record.image,
            instruction=record.instruction or "Describe this image in detail.",
            chosen=record.answer,
            rejected="",
            kind="description",
            source=record.source,
        )
        for record in records
    ]


def _drawn(run: Run, number: int) -> Pair:
    """A picture that goes from dark to light, turned a little more each time, and two answers."""
    path = run.path("drawn", f"{number}.png")
    if not path.is_file():
        Image.linear_gradient("L").rotate(37 * number).convert("RGB").save(path)
    return Pair(
        pair_id=f"drawn-{number}",
        image_id=f"drawn-{number}",
        image=str(path),
        instruction="Describe this image in detail.",
        chosen="The image shows a surface that goes from dark to light.",
        rejected="The image shows two dogs on a red sofa beside a table with three cups.",
        kind="description",
        source="drawn",
    )


def _records(run: Run) -> Path:
    """The records of the training: pairs, or instructions where it finetuned on them."""
    manifest = read_manifest(run.earlier("train"))
    objective = manifest.settings["train"]["objective"] if manifest else "dpo"
    return run.earlier("prepare", "pairs.jsonl" if objective == "dpo" else "instructions.jsonl")


def _save(
    backbone: Backbone, target: Path, learned: Collection[str], *, dtype: torch.dtype
) -> dict[str, Path]:
    """Write what the training changed; the files to load it with."""
    places = dict(backbone.files)
    if ADAPTER in learned:
        backbone.save_original(target, dtype=dtype)
        _check_written(backbone, target, backbone.KEYS)
        places = backbone.files_with(target)
    # Some families keep the connector in the file of the language model.
    if CONNECTOR in learned and (ADAPTER not in learned or CONNECTOR in places):
        backbone.save_connector(target / CONNECTOR)
        places[CONNECTOR] = target / CONNECTOR
    return places


@torch.no_grad()
def _logps(backbone: Backbone, pairs: Sequence[Pair]) -> Float[Tensor, "sides pairs"]:
    """Log-probabilities of the answers per token, pair by pair, in nats, on the CPU."""
    max_length = backbone.max_positions
    found = []
    for pair in pairs:
        packed = batch.pack([batch.tokenize(backbone, pair, max_length=max_length)])
        packed = packed.to(backbone.device)
        embeds = batch.embed(backbone, packed, batch.read_pixels(backbone, packed.images))
        logps = batch.answer_logps(backbone, packed, embeds) / packed.lengths
        found.append(logps.float().cpu())
    return torch.cat(found, dim=1) if found else torch.zeros(2, 0)


def _compare(
    adapter: Tensor,
    merged: Tensor,
    loaded: Tensor,
    *,
    effect: float,
    what: str,
    where: Path,
) -> dict[str, float]:
    if not adapter.numel():
        return {}
    limit = min(_BY_MERGING, max(_NOISE, _LOST * effect))
    exact = float((adapter - merged).abs().max())
    rounded = float((adapter - loaded).abs().max())
    if not exact <= limit or not rounded <= _BY_ROUNDING:
        raise BadInput(
            f"{where}: merged weights do not say what the adapter says: log-probabilities "
            f"differ by {exact:.2e} nats per token in memory (at most {limit:.0e}), {rounded:.2e} "
            f"from the {what} (at most {_BY_ROUNDING}); try merged_dtype: float32"
        )
    return {
        "adapter to merge in memory, nats per token": exact,
        f"adapter to {what}, nats per token": rounded,
    }


def _roomy(device: str, parts: Iterable[Path]) -> str:
    """The wanted device where the float32 weights fit it, else the CPU."""
    if device == "cpu" or not torch.cuda.is_available():
        return device
    torch.cuda.empty_cache()  # what the model before this one had is free, too
    held = [p for p in parts if p.is_file() or any(p.glob("*.safetensors")) or any(p.glob("*.bin"))]
    files = [f for part in held for f in checkpoint.weight_files(part, what=part.name)]
    need = 2.5 * sum(f.stat().st_size for f in files)  # published in 16 bits
    return device if need < torch.cuda.mem_get_info()[0] else "cpu"
