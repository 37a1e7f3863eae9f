"""What was measured, as ratios beside what we promise, in words, as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from hadpo.figures import Figure
from tools.speed import measure, models
from tools.speed.bars import speed_bars
from tools.speed.steps import (
    CACHED,
    GROUPED,
    LIGER,
    NAMES,
    ORIGINAL,
    OURS,
    SEGMENTS,
    TRL,
    TRL_COMPACTION,
)

Seconds = Mapping[str, list[float]]  # of each step -> of each round
RATIOS = {  # name -> the step that is slow, the step that is fast
    "vs_trl": (TRL, OURS),
    "vs_trl_compaction": (TRL_COMPACTION, OURS),
    "vs_liger": (LIGER, OURS),
    "vs_original": (ORIGINAL, OURS),
    "cached_vs_trl": (TRL_COMPACTION, CACHED),
    "segments_vs_dense": (OURS, SEGMENTS),
}
GROUP_RATIOS = {"grouped4_vs_trl": (TRL_COMPACTION, GROUPED)}
MEMORY_RATIOS = {"vs_trl": TRL_COMPACTION, "vs_liger": LIGER, "vs_original": ORIGINAL}
WORDS = {
    "vs_trl": "TRL as installed",
    "vs_trl_compaction": "TRL with token compaction",
    "vs_liger": "Liger",
    "vs_original": "the original style",
    "cached_vs_trl": "TRL with token compaction; our reference cached",
    "grouped4_vs_trl": "TRL with token compaction; ours four pairs of one image per row",
    "segments_vs_dense": "ours with dense attention; ours in segments",
}
_FASTER = "times faster"
KINDS = {"desc": "descriptions", "pope": "POPE pairs"}
# Least factor and aim, as promised for the small LLaVA in float32 on a CPU.
TIME_TARGETS = {
    ("desc", "vs_trl_compaction"): (1.6, 1.9),
    ("desc", "vs_liger"): (1.6, 1.9),
    ("desc", "vs_original"): (1.6, 1.9),
    ("desc", "cached_vs_trl"): (2.3, 2.8),
    ("pope", "vs_trl_compaction"): (1.8, 2.2),
    ("pope", "vs_liger"): (1.8, 2.2),
    ("pope", "vs_original"): (1.8, 2.1),
    ("pope", "cached_vs_trl"): (2.5, 3.1),
    ("pope", "grouped4_vs_trl"): (5.0, 6.6),
}
# Greatest share of the peer's peak, and aim.
MEMORY_TARGETS = {"vs_trl": (0.65, 0.50), "vs_liger": (0.65, 0.50), "vs_original": (0.50, 0.38)}


def time_ratios(single: Seconds, group: Seconds) -> dict[str, dict[str, float] | None]:
    """How many times faster; None where a peer is absent."""
    found: dict[str, dict[str, float] | None] = {}
    for ratios, seconds in ((RATIOS, single), (GROUP_RATIOS, group)):
        for name, (slow, fast) in ratios.items():
            are_here = slow in seconds and fast in seconds
            found[name] = measure.ratio(seconds[slow], seconds[fast]) if are_here else None
    return found


def memory_ratios(peaks: Mapping[str, float]) -> dict[str, float | None]:
    """Our peak over theirs; None where a peer is absent."""
    return {
        name: round(peaks[OURS] / peaks[peer], 3) if peer in peaks else None
        for name, peer in MEMORY_RATIOS.items()
    }


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The medians alone, by the names that scripts read; what they were made from comes behind.

    `vs_trl` of the times is TRL as installed; all other figures against TRL: with compaction.
    """
    time = {
        kind: {k: None if v is None else round(v["median"], 3) for k, v in ratios.items()}
        for kind, ratios in found["time"].items()
    }
    memory = {kind: memory_ratios(peaks) for kind, peaks in found["memory_mb"].items()}
    return {
        "equal": found["equal"],
        "time": time,
        "memory": memory,
        "spread": found["time"],
        **{k: v for k, v in found.items() if k not in ("equal", "time")},
    }


def median_seconds(seconds: Seconds, pairs: int) -> dict[str, float]:
    """Median seconds per pair of each step."""
    return {name: median(values) / pairs for name, values in seconds.items()}


@dataclass(frozen=True)
class Report:
    """Everything that was measured on one geometry; `values` is what the JSON file holds."""

    values: dict[str, Any]

    @property
    def is_mini(self) -> bool:
        """Whether the model is too small for its times to mean anything."""
        return models.find(self.values["geometry"]["name"]).is_mini

    @property
    def name(self) -> str:
        """Of its files."""
        device = "cuda" if "gpu" in self.values["machine"] else "cpu"
        kernels = "-kernels" if self.values.get("way", {}).get("kernels") else ""
        return f"train-{device}-{self.values['geometry']['name']}{kernels}"

    @property
    def extremes(self) -> list[dict[str, Any]]:
        """The rows with the least and the greatest factor of time."""
        timed = [r for r in self.rows if r["what"] == _FASTER and r["median"] is not None]
        order = sorted(timed, key=lambda row: row["median"])
        return [order[0], order[-1]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per ratio: value, least and greatest of the rounds, floor, aim, and verdict."""
        has_targets = self.values["geometry"]["name"] == "toy"
        no_target = (None, None)
        found: list[dict[str, Any]] = []
        for kind, ratios in self.values["spread"].items():
            for name, ratio in ratios.items():
                target = TIME_TARGETS.get((kind, name), no_target) if has_targets else no_target
                value = ratio or {"median": None, "least": None, "greatest": None}
                row: dict[str, Any] = {
                    "what": _FASTER,
                    "pairs": KINDS[kind],
                    "than": WORDS[name],
                } | value
                found.append(row | _judged(row["median"], target, sign=1))
        for kind, shares in self.values["memory"].items():
            for name, value in shares.items():
                target = MEMORY_TARGETS[name] if has_targets and kind == "desc" else no_target
                plain, _, more = kind.partition("_")
                row = {"what": "peak memory, ours over theirs"}
                row |= {"pairs": KINDS[plain] + (f", {more}" if more else "")}
                row |= {"than": NAMES[MEMORY_RATIOS[name]]}
                row |= {"median": value, "least": None, "greatest": None}
                found.append(row | _judged(value, target, sign=-1))
        return found

    def figure(self) -> Figure:
        """The ratios as bars."""
        figure = speed_bars(self.rows)
        return figure.as_mini() if self.is_mini else figure

    def table(self) -> str:
        """The page of Markdown."""
        values = self.values
        machine, geometry = values["machine"], values["geometry"]
        versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
        place = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} thread"
        lines = [
            f"# Training steps, ours and the peers': {geometry['name']} on {place}",
            "",
            f"{machine['measured']}; load {machine['load']}; {machine['system']}; {versions}.",
            "",
            f"Width {geometry['width']}, {geometry['depth']} layers, vocabulary "
            f"{geometry['vocab']}, {geometry['image_tokens']} image and {geometry['text_tokens']} "
            "text tokens, answers of "
            + " and ".join(f"{n} ({KINDS[k]})" for k, n in geometry["answers"].items())
            + f" tokens, LoRA rank {geometry['rank']} on q, k, v; {values['dtype']}, random "
            f"weights. Median of {values['rounds']} interleaved rounds [least, greatest]; "
            f"{values['clock']}. Both answers of a pair are equally long, so that two rows need no "
            "padding.",
            "",
            "| | pairs | against | ours | | floor | aim | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            spread = "" if row["least"] is None else f"[{row['least']:.2f}, {row['greatest']:.2f}]"
            cells = [row["what"], row["pairs"], row["than"], _number(row["median"]), spread]
            lines.append(_line(*cells, _number(row["floor"]), _number(row["aim"]), row["verdict"]))
        lines += [
            "",
            "Equality, float64, against two rows with all logits "
            "(TRL and Liger compute in float32):",
            "",
            "| step | loss | gradients, relative |",
            "|---|---|---|",
        ]
        for name, gaps in values["equal"].items():
            lines.append(_line(NAMES[name], f"{gaps['loss']:.1e}", f"{gaps['gradient']:.1e}"))
        lines += [
            "",
            "| step | pairs | seconds per pair | TFLOP per pair | MFU | peak MB of a step |",
            "|---|---|---|---|---|---|",
        ]
        for kind, each in values["seconds"].items():
            for name, seconds in each.items():
                cells = [NAMES[name], KINDS[kind], f"{seconds:.4f}"]
                cells.append(_number(values["tflop"][kind].get(name), "{:.3f}"))
                cells.append(_number(values["mfu"][kind].get(name), "{:.0%}").replace("%", " %"))
                peak = values["memory_mb"].get(kind, {}).get(name)
                lines.append(_line(*cells, _number(peak, "{:.0f}")))
        lines += ["", *(f"{NAMES[k]}: {why}." for k, why in values["absent"].items())]
        return "\n".join(lines).strip() + "\n"

    def _repr_markdown_(self) -> str:
        return self.table()


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)


def _judged(
    value: float | None, target: tuple[float | None, float | None], *, sign: int
) -> dict[str, Any]:
    floor, aim = target
    return {"floor": floor, "aim": aim, "verdict": _verdict(value, floor, aim, sign=sign)}


def _verdict(value: float | None, floor: float | None, aim: float | None, *, sign: int) -> str:
    if value is None or floor is None or aim is None:
        return "absent" if value is None else ""
    if sign * value < sign * floor:
        return "BELOW THE FLOOR"
    return "reaches the aim" if sign * value >= sign * aim else "reaches the floor"
