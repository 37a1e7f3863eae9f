"""`python -m tools.speed count`: what a step and a token cost at true sizes, without a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hadpo.backbones import llava
from hadpo.figures import Figure
from hadpo.plugins import choices
from hadpo.records import BadInput, read_json, write_text
from tools.speed import cost, counting, decode, machine, models, peers, results, steps
from tools.speed.bars import speed_bars
from tools.speed.models import Geometry

DEPTHS = (2, 4)  # layers that are counted; every count is linear in the depth
PER_PAIR = ("bf16_tflop", "float32_tflop", "other_gb", "product_gb", "launches", "kept_gb")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to take a step: one of `steps`, on how many pairs of how many images."""

    step: str
    pairs: int = 1
    images: int = 1
    autocast: bool = False
    kernels: bool = False  # norm, rotary and SwiGLU as one kernel each


WAYS = {  # the name in the table -> what is counted
    "original style": Way(step=steps.ORIGINAL),
    "Liger": Way(step=steps.LIGER),
    "TRL, compaction, autocast": Way(step=steps.TRL_COMPACTION, autocast=True),
    "ours": Way(step=steps.OURS),
    "ours, segments": Way(step=steps.SEGMENTS),
    "ours, reference cached": Way(step=steps.CACHED),
    "ours, 4 pairs of an image a row": Way(step=steps.GROUPED, pairs=4),
    "ours, micro-batch of 4": Way(step=steps.OURS, pairs=4, images=4),
    "ours, kernels": Way(step=steps.OURS, kernels=True),
    "ours, micro-batch of 4, kernels": Way(step=steps.OURS, pairs=4, images=4, kernels=True),
}
PEERS = tuple(WAYS)[:3]
IDEAL = "ideal"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio that the counts must hold (spec: at LLaVA-7B, with recomputation, unless said)."""

    what: str
    value: float | None
    least: float | None = None
    most: float | None = None

    @property
    def is_held(self) -> bool | None:
        """None where a peer is not installed."""
        if self.value is None:
            return None
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )


def command(
    json_file: results.JsonFile = None,
    geometry: Annotated[str, typer.Option(help="sizes; empty: all that are counted")] = "",
    folder: results.Folder = None,
    publish: results.Publish = False,
) -> None:
    """Operations by dtype, bytes, launches, waits and kept bytes of a pair; nothing is timed.

    Example: python -m tools.speed count --geometry llava-7b
    """
    if geometry and geometry not in models.COUNTED:
        raise BadInput(f"no geometry {geometry!r}; {choices(geometry, models.COUNTED)}")
    out = results.folder_for(folder, publish=publish)
    names = [geometry] if geometry else [*models.COUNTED]
    found: dict[str, Any] = {"versions": machine.describe()["versions"], "geometries": {}}
    for name in names:
        sizes = models.COUNTED[name]
        rows = count_all(sizes)
        # Shared prefixes, which only LLaVA's geometries have here.
        steps_of = decode.count(sizes) if sizes.family == "llava" else []
        goals_of = [vars(g) for g in (*goals(rows), *decoding_goals(steps_of))]
        found["geometries"][name] = {"rows": rows, "decode": steps_of, "goals": goals_of}
        save(found, out)  # after each geometry: a run that is cut off has written the others
    typer.echo(table(found))
    results.save_json(found, json_file)


def count_all(sizes: Geometry, ways: Sequence[str] = tuple(WAYS)) -> list[dict[str, Any]]:
    """Every way, kind of pair, and recomputation; those of peers that are not installed are left.

    Returns:
        One row each: name, kind, recomputes, the counts of a pair, modelled milliseconds by GPU.
    """
    reasons = steps.available(sizes)
    rows = []
    for kind in sizes.answers:
        for recomputes in (True, False):
            for name in ways:
                if reasons[WAYS[name].step]:
                    continue
                counts = count_way(sizes, WAYS[name], kind, recomputes=recomputes)
                rows.append({"name": name, "kind": kind, "recomputes": recomputes} | counts)
            rows.append(_ideal(sizes, kind, recomputes))
    return rows


def count_way(sizes: Geometry, way: Way, kind: str, *, recomputes: bool) -> dict[str, Any]:
    """Counts of a pair at the full depth, extrapolated from two that are counted."""
    low, high = (
        _of_depth(dataclasses.replace(sizes, depth=depth), way, kind, recomputes)
        for depth in DEPTHS
    )
    steps_up = (sizes.depth - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    whole = {key: low[key] + steps_up * (high[key] - low[key]) for key in low}
    found: dict[str, Any] = {key: whole[key] / way.pairs for key in PER_PAIR}
    found |= {"waits": round(whole["waits"]), "copies": round(whole["copies"])}
    found["ms"] = {gpu: whole[f"ms {gpu}"] / way.pairs for gpu in counting.GPU_NAMES}
    return found


def _of_depth(sizes: Geometry, way: Way, kind: str, recomputes: bool) -> dict[str, float]:
    """Counts of one step, by a model of its own: recomputation leaves hooks behind."""
    torch.manual_seed(0)
    backbone = models.on_meta(sizes, dtype=torch.bfloat16)
    examples = models.pairs(sizes, kind, way.pairs, images=way.images)
    side = sizes.image_size
    pixels = torch.empty(way.images, 3, side, side, dtype=torch.bfloat16, device="meta")
    is_trl = way.step in (steps.TRL, steps.TRL_COMPACTION)
    with counting.Count():
        ways = steps.Steps(backbone, sizes, examples, pixels, () if is_trl else (way.step,))
    if is_trl:
        assert isinstance(backbone, llava.Llava)
        with _trainer_on_meta():
            ways.trl = peers.Trl(backbone, sizes)
        for module in ways.trl.model.modules():
            models.fix_buffers(module)
    if way.step in (steps.ORIGINAL, steps.LIGER):
        models.leave_lora_to_peft(backbone)
    if recomputes:
        ways.recompute_activations(True)
    count = counting.Count()
    count.known(backbone, *([ways.trl.model] if ways.trl is not None else []))
    autocast = counting.Autocast() if way.autocast else contextlib.nullcontext()
    kernels = counting.one_kernel_each() if way.kernels else contextlib.nullcontext()
    with kernels, count, autocast:
        loss = ways.loss(way.step)
        kept = count.live
        loss.backward()
    with counting.Count() as moved:  # the rows lay there already; a training moves each micro-batch
        if way.step not in (steps.ORIGINAL, steps.LIGER) and not is_trl:
            ways.packed.to(counting.META)
    found: dict[str, float] = {
        "bf16_tflop": count.operations["bfloat16"] / 1e12,
        "float32_tflop": count.operations["float32"] / 1e12,
        "other_gb": count.other_bytes / 1e9,
        "product_gb": count.product_bytes / 1e9,
        "launches": float(count.launches),
        "kept_gb": kept / 1e9,
        "waits": float(count.waits),
        "copies": float(count.copies + moved.copies),
    }
    return found | {f"ms {gpu}": 1e3 * count.seconds(gpu)[0] for gpu in counting.GPU_NAMES}


@contextlib.contextmanager
def _trainer_on_meta():
    """Transformers' Trainer takes a model that lies on the meta device as it is."""
    from unittest import mock

    import transformers

    stay: Any = lambda self, model, device: None  # noqa: E731
    with mock.patch.object(transformers.Trainer, "_move_model_to_device", stay):
        yield


def _ideal(sizes: Geometry, kind: str, recomputes: bool) -> dict[str, Any]:
    by_gpu = {
        gpu: cost.ideal(sizes, kind, gpu, recomputes=recomputes) for gpu in counting.GPU_NAMES
    }
    found = by_gpu["A100"]
    return {
        "name": IDEAL,
        "kind": kind,
        "recomputes": recomputes,
        "bf16_tflop": found["operations"] / 1e12,
        "float32_tflop": 0.0,
        "other_gb": found["bytes"] / 1e9,
        "ms": {gpu: 1e3 * each["seconds"] for gpu, each in by_gpu.items()},
    }


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """Ratios beside what they are meant to be."""
    by = {(row["name"], row["kind"], row["recomputes"]): row for row in rows}

    def value(name: str, key: str, kind: str = "desc", recomputes: bool = True) -> float | None:
        row = by.get((name, kind, recomputes))
        if row is None or row.get(key) is None:
            return None
        return row["ms"]["A100"] if key == "ms" else float(row[key])

    def ratio(key: str, above: str, below: str, *where: Any) -> float | None:
        top, bottom = value(above, key, *where), value(below, key, *where)
        return top / bottom if top is not None and bottom else None

    original, liger, trl = PEERS
    key = "ms"
    found = [
        Goal(what="TFLOP of float32 products", value=value("ours", "float32_tflop"), most=0.0),
        Goal(what="bf16 TFLOP, ours / ideal", value=ratio("bf16_tflop", "ours", IDEAL), most=1.04),
    ]
    for kind, least, aim in (("desc", 2.0, 2.3), ("pope", 2.25, 2.65)):
        where = f"A100 ms, TRL / ours, {kind}"
        found.append(Goal(what=where, value=ratio(key, trl, "ours", kind), least=least))
        with_kernels = ratio(key, trl, "ours, kernels", kind)
        found.append(Goal(what=f"{where}, kernels", value=with_kernels, least=aim))
    for name, most, most_elementwise in (("ours", 1.4, 4.8), ("ours, kernels", 1.2, 2.0)):
        found += [
            Goal(what=f"A100 ms, {name} / ideal", value=ratio(key, name, IDEAL), most=most),
            Goal(
                what=f"elementwise GB, {name} / ideal",
                value=ratio("other_gb", name, IDEAL),
                most=most_elementwise,
            ),
        ]
    for peer in (original, liger):
        found.append(
            Goal(what=f"A100 ms, {peer} / ours", value=ratio(key, peer, "ours"), least=2.9)
        )
    kept = ("kept_gb", "ours", trl, "desc", False)
    found += [
        Goal(what="elementwise GB, ours / TRL", value=ratio("other_gb", "ours", trl), most=0.38),
        Goal(
            what="launches a pair, micro-batch of 4",
            value=value("ours, micro-batch of 4", "launches"),
            most=2400.0,
        ),
        Goal(
            what="launches a pair, micro-batch of 4, kernels",
            value=value("ours, micro-batch of 4, kernels", "launches"),
            most=1450.0,
        ),
        Goal(what="kept GB, ours / TRL, nothing recomputed", value=ratio(*kept), most=0.52),
        Goal(what="waits in a micro-batch", value=value("ours", "waits"), most=0.0),
        Goal(what="copies to the device in a micro-batch", value=value("ours", "copies"), most=1.0),
    ]
    return found


def decoding_goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The same of steps of decoding."""
    by = {(row["name"], row["kernels"]): row for row in rows}
    if not by:
        return []
    shr, fast = by[decode.SHR, False], by[decode.SHR, True]
    traffic = shr["other_gb"] / shr["product_gb"]
    waits, same = max(r["waits"] for r in rows), min(r["same_trace"] for r in rows)
    return [
        Goal(what="decoding: waits a step", value=waits, most=1.0),
        Goal(what="decoding: two steps do the same (1: yes)", value=same, least=1.0),
        Goal(what="decoding: launches a step, kernels", value=fast["launches"], most=650.0),
        Goal(what="decoding: elementwise / product GB, SHR", value=traffic, most=0.16),
        Goal(what="decoding: A100 ms / ideal, SHR", value=decode.ratio(shr), most=1.25),
        Goal(
            what="decoding: A100 ms / ideal, POPE, kernels",
            value=decode.ratio(by[decode.POPE, True]),
            most=1.3,
        ),
    ]


def table(found: Mapping[str, Any]) -> str:
    """All counts as one page of Markdown."""
    versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items())
    lines = [
        "# What a step costs, counted on the meta device",
        "",
        "Per pair; ms are modelled (the larger of arithmetic and traffic, launch by launch), "
        f"**not measured: no GPU run was made.** {versions}.",
    ]
    for name, values in found["geometries"].items():
        lines += [
            "",
            f"## {name}",
            "",
            "| step | pair | recomputed | bf16 TFLOP | float32 TFLOP | elementwise GB | launches "
            "| waits | kept GB | ms V100 / A100 / H100 |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in values["rows"]:
            kept = [row.get("launches"), row.get("waits"), row.get("kept_gb")]
            launches, waits, kept_gb = ("-" if v is None else f"{v:,.6g}" for v in kept)
            ms = " / ".join(f"{row['ms'][gpu]:.0f}" for gpu in counting.GPU_NAMES)
            lines.append(
                f"| {row['name']} | {row['kind']} | {'yes' if row['recomputes'] else 'no'} "
                f"| {row['bf16_tflop']:.2f} | {row['float32_tflop']:.2f} | {row['other_gb']:.1f} "
                f"| {launches.split('.')[0]} | {waits} | {kept_gb[:5]} | {ms} |"
            )
        if values.get("decode"):
            lines += ["", *decode.table(values["decode"])]
        lines += ["", "| goal | now | wanted | |", "|---|---|---|---|"]
        for goal in (Goal(**g) for g in values["goals"]):
            if goal.value is None:
                continue
            wanted = f"at least {goal.least}" if goal.least is not None else f"at most {goal.most}"
            verdict = "held" if goal.is_held else "**missed**"
            lines.append(f"| {goal.what} | {goal.value:.4g} | {wanted} | {verdict} |")
    return "\n".join(lines) + "\n"


def figure(found: Mapping[str, Any], geometry: str = "llava-7b") -> Figure:
    """How many times less A100 time a pair takes than the peers', by the model; nothing is timed.

    Raises:
        BadInput: no peer was counted.
    """
    by = {
        (row["name"], row["kind"], row["recomputes"]): row["ms"]["A100"]
        for row in found["geometries"][geometry]["rows"]
    }
    bars = []
    for ours in ("ours", "ours, kernels", "ours, reference cached"):
        for kind in ("desc", "pope"):
            for peer in PEERS:
                if (peer, kind, True) not in by:
                    continue
                ratio = by[peer, kind, True] / by[ours, kind, True]
                bars.append(
                    {"what": f"{ours}: times less modelled A100 time than", "pairs": kind}
                    | {"than": peer, "median": ratio, "least": None, "greatest": None}
                    | {"floor": None, "aim": None}
                )
    title = f"Counted at {geometry} on the meta device; modelled, not measured on a GPU."
    return speed_bars(bars, title=title)


def published() -> dict[str, Any]:
    """The committed counts, `papers_results/speed/count.json`."""
    return read_json(results.PUBLISHED / "count.json", dict, expected="tools.speed count --publish")


def save(found: Mapping[str, Any], folder: Path) -> None:
    """Write `count.json` and `count.md` into `folder`, and the figure if peers were counted."""
    results.save_json(found, folder / "count.json")
    write_text(folder / "count.md", table(found))
    names = {row["name"] for each in found["geometries"].values() for row in each["rows"]}
    if "llava-7b" in found["geometries"] and names & set(PEERS):
        figure(found).save(folder, "count")
