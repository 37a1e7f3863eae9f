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
    corrector: Literal["oracle", "llm"] = "oracle"  # mined: who finds and corrects false sentences
    corrector_model: str = ""  # llm: the model's name on the server at OPENAI_BASE_URL
    corrector_format: Literal["json_schema", "json_object"] = "json_schema"  # llm: of the replies
    corrector_temperature: Amount = 0.0  # llm: above 0, rewrites of one text differ more
    corrector_max_tokens: AtLeastOne = 1500  # llm: per reply; a longer one is cut off
    corrector_concurrency: AtLeastOne = 8  # llm: requests at a time
    corrector_input_price: Amount = 0.0  # llm: dollars per million tokens of prompts; 0: unknown
    corrector_output_price: Amount = 0.0  # llm: dollars per million tokens of replies; 0: unknown
    corrector_max_cost_usd: Amount = 0.0  # llm: by estimate, no start costs more; 0: no limit
    rewrites: Count = 0  # llm: of chosen and of rejected, in one style; HA-DPO's files have 3
    limit: Count = 0  # at most this many pairs or instructions of each kind; 0: all
    on_bad: Literal["error", "skip"] = "error"  # a broken record: stop, or skip and count it
    held_out_share: Share = 0.0  # of the pairs' images, kept from training to watch it; 0: none
    on_overlap: Literal["error", "count"] = "error"  # images both trained on and evaluated
    prepare_seed: Count = 42  # draws prompts, rewrites and samples
