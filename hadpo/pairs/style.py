"""Do chosen and rejected differ in truth alone? Length, shared word sequences, and perplexity.

A preference that a model can learn from length or wording teaches nothing about truth. HA-DPO shows
this consistency for its pairs; here it is measured for every set of pairs.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hadpo.pairs.mine import load_base
from hadpo.records import Pair, append_jsonl, input_hashes, read_jsonl, resume_jsonl
from hadpo.text import sentences, words

if TYPE_CHECKING:
    from hadpo.runs import Run
    from hadpo.vlm.backbone import Backbone

log = logging.getLogger(__name__)

PAIRS = 200  # of the descriptions: a forward pass each
AT_ONCE = 8  # pairs in one forward pass
MAX_LENGTH = 2048  # positions; longer answers are cut, as in training
FILE = "style.jsonl"


@dataclass(frozen=True, kw_only=True)
class Style:
    """One pair, measured; the perplexities are those of the base model, if pairs were mined."""

    pair_id: str
    words_chosen: int
    words_rejected: int
    sentences_chosen: int
    sentences_rejected: int
    shared_1: float  # share of the rejected text's words that the chosen one has, too
    shared_2: float  # the same of bigrams
    shared_3: float
    perplexity_chosen: float | None = None
    perplexity_rejected: float | None = None


def measure_style(run: "Run") -> list[dict[str, Any]]:
    """Style of the first description pairs of a prepared run, a row each; also in style.jsonl.

    The base model is asked only if the pairs were mined from it: published pairs need no model.
    """
    if not run.path("pairs.jsonl").is_file():  # a recipe that finetunes on instructions alone
        return []
    everything = read_jsonl(run.path("pairs.jsonl"), Pair)
    pairs = [pair for pair in everything if pair.kind == "description"][:PAIRS]
    path = run.path(FILE)
    styles = {style.pair_id: style for style in resume_jsonl(path, Style)}
    hashes = input_hashes([run.path("pairs.jsonl")], below=run.folder)
    hashes = {f"style of {name}": value for name, value in hashes.items()}
    run.note_inputs(hashes, begun=path if styles else None)
    new = [pair for pair in pairs if pair.pair_id not in styles]
    if new:
        styles |= {style.pair_id: style for style in append_jsonl(path, _styles(run, new))}
    return [vars(styles[pair.pair_id]) for pair in pairs]


def of_texts(pair: Pair) -> dict[str, Any]:
    """What can be measured without a model; the fields of `Style` but for the perplexities."""
    chosen, rejected = words(pair.chosen), words(pair.rejected)
    values: dict[str, Any] = {
        "pair_id": pair.pair_id,
        "words_chosen": len(chosen),
        "words_rejected": len(rejected),
        "sentences_chosen": len(sentences(pair.chosen)),
        "sentences_rejected": len(sentences(pair.rejected)),
    }
    for length in (1, 2, 3):
        of_chosen, grams = set(_grams(chosen, length)), list(_grams(rejected, length))
        shared = sum(gram in of_chosen for gram in grams)
        values[f"shared_{length}"] = shared / len(grams) if grams else 0.0
    return values


def summarize_style(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the pairs, by the words that a table shows; of the perplexity the geometric mean.

    "chosen likelier" is the share of pairs whose chosen text the base finds likelier per token:
    about half of them if wording carries no signal.
    """
    if not rows:
        return {"description pairs": 0}
    facts: dict[str, Any] = {"description pairs": len(rows)}
    for name in ("words", "sentences"):
        for side in ("chosen", "rejected"):
            mean = sum(row[f"{name}_{side}"] for row in rows) / len(rows)
            facts[f"{name}, {side}"] = round(mean, 1)
    for length in (1, 2, 3):
        mean = sum(row[f"shared_{length}"] for row in rows) / len(rows)
        facts[f"{length}-grams of rejected that chosen has"] = round(mean, 3)
    known = [row for row in rows if row.get("perplexity_chosen")]
    if known:
        for side in ("chosen", "rejected"):
            logs = [math.log(row[f"perplexity_{side}"]) for row in known]
            facts[f"perplexity under the base, {side}"] = round(math.exp(sum(logs) / len(logs)), 2)
        likelier = sum(r["perplexity_chosen"] < r["perplexity_rejected"] for r in known)
        facts["chosen likelier"] = round(likelier / len(known), 3)
    return facts


def _grams(text: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(text[i : i + length]) for i in range(len(text) - length + 1))


def _styles(run: "Run", pairs: Sequence[Pair]) -> Iterator[Style]:
    if run.settings.pair_source != "mined":
        yield from (Style(**of_texts(pair)) for pair in pairs)
        return
    backbone = load_base(run)
    log.info("perplexity of %d pairs under the base", len(pairs))
    for at in range(0, len(pairs), AT_ONCE):
        group = pairs[at : at + AT_ONCE]
        for pair, (chosen, rejected) in zip(group, _perplexities(backbone, group), strict=True):
            yield Style(**of_texts(pair), perplexity_chosen=chosen, perplexity_rejected=rejected)


def _perplexities(backbone: "Backbone", pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """Perplexity of chosen and rejected, per token, the end marker included."""
    from hadpo import batch

    examples = [batch.tokenize(backbone, pair, max_length=MAX_LENGTH) for pair in pairs]
    packed = batch.pack(examples)
    pixels = batch.read_pixels(backbone, packed.images)
    packed = packed.to(backbone.device)
    # No parameter of a base requires a gradient, so torch keeps none.
    logps = batch.answer_logps(backbone, packed, batch.embed(backbone, packed, pixels))
    perplexities = (-logps.double() / packed.lengths).exp().T.tolist()
    return [(chosen, rejected) for chosen, rejected in perplexities]
