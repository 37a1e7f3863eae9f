"""No setting of a mini recipe is ignored: changing it changes the printed plan or the result.

Every scalar setting that a stage reads is changed here, one at a time, on a very small run; the
stage's plan, what it returns and the files it writes must not be all the same as before. A setting
that cannot matter for this recipe must be refused.
"""

import hashlib
import itertools
import json

import pytest

from hadpo import adapter, benchmarks, config, doctor, pairs, tables, trainer
from hadpo.records import BadInput
from hadpo.runs.run import open_run

RECIPE = "mini/benchmarks"
SMALL = {
    "prepare": {
        "mini_train_images": 10,
        "mini_test_images": 3,
        "description_images": 10,
        "yes_no_pairs": 12,
        "held_out_share": 0.2,
    },
    "train": {
        "steps": 3,
        "batch_pairs": 4,
        "micro_batch_pairs": 2,
        "warmup_steps": 1,
        "controls": "",
        "checkpoint_every": 3,
    },
    "merge": {},
    "evaluate": {
        "models": "base",
        "gavie_max_new_tokens": 12,
        "chair_max_new_tokens": 12,
        "amber_max_new_tokens": 12,
        "objhal_max_new_tokens": 12,
        "mmhal_max_new_tokens": 12,
        "hallusion_max_new_tokens": 12,
        "cut_control": False,
        "bootstrap_samples": 50,
    },
    "compare": {},
}
CHANGED = {
    # model: other files or, without a GPU, another device are refused
    "backbone": "llava/1.5-7b",
    "dtype": "bfloat16",
    "device": "cuda",
    "quantization": "nf4",
    "exif": "as_stored",
    "kernels": "fused",
    "language_model": "${HADPO_MODELS}/nowhere",
    "engine": "server",
    "server_models": "base=a",
    "server_concurrency": 2,
    "server_timeout_seconds": 1.0,
    "server_retries": 1,
    "server_input_price": 1.0,
    "server_output_price": 1.0,
    "server_max_cost_usd": 1.0,
    # data
    "mini_seed": 8,
    "mini_train_images": 11,
    "mini_test_images": 4,
    "visual_genome": "",
    "instructions": "oracle",
    "coco": "",
    "pope": "",
    "pope_splits": "random",
    "repope": "",
    "shr": "",
    "gavie": "",
    "gavie_regions": "${WORLD}/nowhere.json",
    "gqa": "",
    "chair_synonyms": "",
    "amber": "",
    "amber_images": "${WORLD}/nowhere",
    "objhal": "",
    "chair_annotations": "",
    "chair_photos": "opera",
    "chair_prompt": "What is here?",
    "mmhal": "",
    "hallusion": "",
    "hallusion_images": "${WORLD}/nowhere",
    "objhal_synonyms": "${WORLD}/nowhere",
    "objhal_annotations": "${WORLD}/nowhere",
    "mmhal_images": "${WORLD}/nowhere",
    "vocabulary": "",
    # prepare
    "pair_source": "published",
    "description_images": 8,
    "yes_no_pairs": 6,
    "sampled_share": 0.9,
    "temperature": 1.5,
    "samples_per_image": 3,
    "max_new_tokens": 20,
    "corrector": "llm",  # refused: no model of a server is named
    "limit": 4,
    "on_bad": "skip",
    "held_out_share": 0.4,
    "on_overlap": "count",
    "prepare_seed": 43,
    # train
    "objective": "sft",
    "trained": "connector",
    "beta": 0.5,
    "gamma": 0.0,
    "gamma_on": "instructions",
    "loss": "ipo",
    "label_smoothing": 0.2,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "min_learning_rate": 1e-4,
    "warmup_learning_rate": 1e-4,
    "warmup_steps": 0,
    "steps": 2,
    "batch_pairs": 3,
    "micro_batch_pairs": 4,
    "pairs_per_row": 2,
    "reference": "cache",
    "description_share": 1.0,
    "repeat_description": 3,
    "repeat_pope": 3,
    "optimizer": "adamw_8bit",
    "weight_decay": 0.5,
    "max_grad_norm": 0.01,
    "allow_tf32": True,
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "lora_b_rate_ratio": 16.0,
    "lora_dropout": 0.5,
    "lora_targets": "q_proj",
    "max_length": 70,
    "attention": "segments",
    "activation_checkpointing": True,
    "controls": "sft",
    "control_learning_rate": 1e-3,
    "control_steps": 2,
    "early_stop": 1,
    "checkpoint_every": 1,
    "keep_steps": True,
    "log_every": 2,
    "eval_every": 2,
    "trackers": "nobody",
    "processes": 2,
    "vision_cache_gb": 1.0,
    "train_seed": 43,
    # merge
    "merged_dtype": "bfloat16",
    "check_pairs": 1,
    "save_transformers": False,
    "adapter_folder": "nowhere",
    # evaluate
    "benchmark_names": "pope",
    "models": "base,merged",
    "prompt": "train",
    "pope_beams": 2,
    "pope_max_new_tokens": 1,
    "pope_stop_at_period": True,
    "shr_beams": 2,
    "shr_max_new_tokens": 20,
    "shr_segmentation": "grammar",
    "shr_responses": "nowhere.json",
    "gavie_beams": 2,
    "gavie_max_new_tokens": 2,
    "gqa_beams": 2,
    "gqa_max_new_tokens": 2,
    "chair_beams": 2,
    "chair_max_new_tokens": 3,
    "amber_beams": 2,
    "amber_max_new_tokens": 3,
    "amber_words": "nltk",
    "amber_vectors": "en_core_web_lg",
    "objhal_beams": 2,
    "objhal_max_new_tokens": 3,
    "objhal_words": "nltk",
    "objhal_parser": "en_core_web_trf",
    "chair_reading": "plain",
    "chair_words": "nltk",
    "mmhal_beams": 2,
    "hallusion_beams": 2,
    "hallusion_max_new_tokens": 3,
    "mmhal_max_new_tokens": 3,
    "repetition_penalty": 1.5,
    "batch_questions": 3,
    "answer_processes": 2,
    "answer_dtype": "bfloat16",
    "answer_quantization": "nf4",
    "exact": True,
    "judge": "nobody",
    # refused: the oracle asks nobody
    "judge_model": "judge",
    "judge_prompts": "prompts",
    "judge_reader": "upstream",
    "judge_format": "text",
    "judge_temperature": 0.7,
    "judge_max_tokens": 100,
    "judge_delivery": "batch",
    "judge_concurrency": 2,
    "judge_timeout_seconds": 5.0,
    "judge_retries": 1,
    "judge_attempts": 3,
    "judge_input_price": 1.0,
    "judge_output_price": 1.0,
    "judge_max_cost_usd": 1.0,
    "judge_replies": "replies.jsonl",
    "cut_control": True,
    "questions_limit": 2,
    "bootstrap_samples": 60,
    "evaluate_seed": 43,
    # compare
    "run_names": "nothing",
    "reported": "",
    "reported_backbone": "InstructBLIP",
}
REFUSED = {  # they cannot matter for a mini recipe, and whoever gives them is told so
    "pairs_schema": "minigpt4",
    "pairs_folder": "${HADPO_DATA}/hadpo",
    "corrector_model": "judge",
    "corrector_format": "json_object",
    "corrector_temperature": 0.7,
    "corrector_max_tokens": 100,
    "corrector_concurrency": 2,
    "corrector_input_price": 1.0,
    "corrector_output_price": 1.0,
    "corrector_max_cost_usd": 1.0,
    "rewrites": 2,
    "epochs": 2.0,
    "parallel": "zero2",
    "batch_memory_gib": 1.0,
    "height_bug_compat": True,
    "mmhal_judge_sees": "photo",
    "hallusion_judge_sees": "picture",
    "instruction_kinds": "positive",
    "mean_over": "tokens",
    "max_answer_tokens": 4,
    "mixture": "mined=1.0",
    "warmup_share": 0.5,
    "caption_requests": "humour",
    "on_difference": "note",
    "adapter_projector": "base",
    "claims_beams": 2,
    "claims_max_new_tokens": 3,
}
CASES = [
    (stage, name)
    for stage in config.SECTIONS
    for name, setting in config.settings(stage).items()
    if setting.section != "model" or stage == "train"
]


def test_every_setting_is_tried():
    names = {name for stage in config.SECTIONS for name in config.settings(stage)}
    assert names == CHANGED.keys() | REFUSED.keys()
    assert not CHANGED.keys() & REFUSED.keys()


@pytest.mark.parametrize(("stage", "name"), [c for c in CASES if c[1] in REFUSED])
def test_a_setting_that_cannot_matter_is_refused_by_name(stage, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path))
    with pytest.raises(BadInput, match=f"'{name}' has no effect"):
        open_run(stage, RECIPE, "a", SMALL[stage] | {name: REFUSED[name]})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Runs one stage with one more override, in a run of its own, after the stages of `base`."""
    folder = tmp_path_factory.mktemp("runs")
    numbers = itertools.count()

    def run_stage(stage, overrides, name):
        earlier = "" if name == "base" else "base"
        run = open_run(stage, RECIPE, name, SMALL[stage] | overrides, earlier=earlier)
        if stage == "prepare":
            doctor.inputs(run)
            shown = [pairs.plan(run), pairs.prepare(run)]
        elif stage == "train":
            shown = [trainer.plan(run)]
            shown += [(s.objective, s.step, s.metrics) for s in trainer.train(run)]
        elif stage == "merge":
            shown = [adapter.merge_run(run)]
        elif stage == "evaluate":
            shown = [benchmarks.plan(run), [str(m) for m in benchmarks.evaluate(run)]]
        else:
            shown = [table.to_markdown() for table in tables.compare(run)]
        run.finish()
        return hashlib.sha256(f"{json.dumps(shown, default=str)}{digest(run)}".encode()).hexdigest()

    def digest(run):
        names = ("pairs.jsonl", "held_out.jsonl", "questions.jsonl", "evidence.jsonl")
        names += ("vocabulary.json", "metrics.json", "merged/config.json", "decoding.json")
        found = [run.folder / name for name in names if (run.folder / name).is_file()]
        place = str(run.folder)
        kept = sorted(path.name for path in run.folder.glob("steps/*"))
        return [*kept, *(p.read_text(encoding="utf-8").replace(place, "") for p in found)]

    def attempt(stage, overrides):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HADPO_RUNS", str(folder))
            return run_stage(stage, overrides, f"try-{next(numbers)}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HADPO_RUNS", str(folder))
        for stage in config.SECTIONS:
            run_stage(stage, {}, "base")
    same = {stage: attempt(stage, {}) for stage in config.SECTIONS}
    return attempt, same


@pytest.mark.slow
def test_the_same_settings_give_the_same(outcome):
    attempt, same = outcome
    for stage in ("prepare", "train", "evaluate"):
        assert attempt(stage, {}) == same[stage], stage


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), [c for c in CASES if c[1] in CHANGED])
def test_a_changed_setting_is_seen_or_refused(outcome, stage, name):
    attempt, same = outcome
    try:
        changed = attempt(stage, {name: CHANGED[name]})
    except BadInput as error:
        assert str(error)  # refused with a reason is not ignored
        return
    assert changed != same[stage], f"{name} was ignored by {stage}"
