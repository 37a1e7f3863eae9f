"""Section `evaluate`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hadpo.config.sections.ranges import STRICT, Amount, AtLeastOne, Count, Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateConfig:
    """Which models answer which benchmarks, how they decode, and who judges."""

    benchmark_names: str = "pope,shr"  # module names in hadpo/benchmarks
    models: str = "base,merged"  # of base, merged, and the controls that were trained
    prompt: Literal["evaluate", "train"] = "evaluate"  # which of the backbone's two prompts
    repetition_penalty: Positive = 1.0  # over generated tokens only
    batch_questions: Count = 0  # questions at once, halved where memory runs out; 0: as many as fit
    batch_memory_gib: Amount = 0.0  # what they may take beside the weights; 0: 80 % of what is free
    answer_processes: AtLeastOne = 1  # share the images, each with the model on its own device
    exact: bool = False  # one question at a time, nothing shared: slow, and the reference
    judge: str = "oracle"  # module name in hadpo/judges: oracle, llm or replay
    judge_model: str = ""  # llm, replay: the model's name on the server at OPENAI_BASE_URL
    judge_prompts: str = ""  # folder of your own prompts (shr.txt, gavie.txt); empty: ours
    judge_reader: Literal["tolerant", "upstream"] = "tolerant"  # of the replies on sentences
    judge_format: Literal["json_schema", "json_object", "text"] = "json_schema"  # of the replies
    judge_temperature: Amount = 0.0  # the paper's SHR judge had 0.7
    judge_max_tokens: AtLeastOne = 800  # per reply; a longer one is cut off and unreadable
    judge_delivery: Literal["direct", "batch"] = "direct"  # batch: hand in, collect on a rerun
    judge_concurrency: AtLeastOne = 8  # requests at a time
    judge_timeout_seconds: Positive = 60.0  # of one request
    judge_retries: Count = 4  # of a request whose error may pass
    judge_attempts: AtLeastOne = 2  # times in all that an unreadable reply is asked for
    judge_input_price: Amount = 0.0  # dollars per million tokens of the prompts; 0: unknown
    judge_output_price: Amount = 0.0  # dollars per million tokens of the replies; 0: unknown
    judge_max_cost_usd: Amount = 0.0  # by estimate, no start costs more; 0: no limit
    judge_replies: str = ""  # replay: judge_replies.jsonl of a run; empty: the cache of all runs
    cut_control: bool = False  # also score the base's text, cut to the tuned model's sentence count
    questions_limit: Count = 0  # at most this many questions of each split; 0: all
    bootstrap_samples: AtLeastOne = 1000  # resampled image sets behind each interval
    evaluate_seed: Count = 42  # of the bootstrap
