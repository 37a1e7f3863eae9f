"""Section `prepare`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config.sections.ranges import STRICT, Amount, AtLeastOne, Count, Share


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrepareConfig:
    """Where the preference pairs come from, and the questions of the evaluation."""

    pair_source: Literal["published", "mined", "none"] = "published"  # files, or its own answers
    instruction_kinds: str = "positive,negative,chart,caption"  # which instructions are kept
    description_images: Count = 0  # mined: images the model describes
    yes_no_pairs: Count = 0  # mined: question pairs to keep
    sampled_share: Share = 0.5  # mined: share of the descriptions that are sampled, the rest greedy
    temperature: Amount = 0.7  # mined: of the sampled descriptions
    max_new_tokens: AtLeastOne = 100  # mined: per description
    limit: Count = 0  # at most this many pairs or instructions of each kind; 0: all
    on_bad: Literal["error", "skip"] = "error"  # a broken record: stop, or skip and count it
    held_out_share: Share = 0.0  # of the pairs' images, kept from training to watch it; 0: none
    on_overlap: Literal["error", "count"] = "error"  # images both trained on and evaluated
    prepare_seed: Count = 42  # draws prompts, rewrites and samples
