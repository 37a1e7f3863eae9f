"""The defect that has no setting: a reference that read another request than the policy."""

import json
from dataclasses import replace

import pytest

from hadpo import runs
from hadpo.trainer import order, read_records, reference, stage
from tools.claims import jobs


@pytest.mark.slow
def test_the_reference_of_descriptions_reads_another_request(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path))
    firsts, trainings = jobs.defects()
    first = next(job for job in firsts if job.name == f"{jobs.OTHER_PROMPT}-world-31")
    job = next(job for job in trainings if job.earlier == first.name)
    small = {"mini_train_images": 12, "mini_test_images": 2, "yes_no_pairs": 4}
    jobs.work(replace(first, settings={"prepare": {"description_images": 12, **small}}))
    whole = {"steps": 1, "batch_pairs": 16, "micro_batch_pairs": 8, "beta": 0.5}
    settings = {"train": {**job.settings["train"], **whole}}
    jobs.work(replace(job, stages=("train",), settings=settings))

    run = runs.open_run("train", job.recipe, job.name, settings["train"], earlier=first.name)
    assert run.manifest.facts["reference_prompts"] == list(job.other_prompts)
    pairs, _ = read_records(run)
    asked = {pair.pair_id: pair.kind for pair in pairs}
    backbone = stage.load_backbone(run)
    own = reference.prepare(backbone, pairs, run.recipe.train, tmp_path / "own")
    used = reference.prepare(backbone, pairs, run.recipe.train, stage.cache_folder(run))
    assert (used.computed, used.found) == (0, len(pairs))
    changed = {pair_id for pair_id in asked if not own.of([pair_id]).equal(used.of([pair_id]))}
    assert {asked[pair_id] for pair_id in changed} == {"description"}
    assert len(changed) == run.manifest.facts["reference_of_another_prompt"] > 4

    # Before the first update the policy is the base: its reward is what the request alone makes.
    [line] = (run.folder / "metrics.jsonl").read_text().splitlines()
    [update] = order.batches_of_records(pairs, run.recipe.train)
    taken = [pairs[k].pair_id for k in update]
    gaps = 0.5 * (own.of(taken) - used.of(taken)).mean(dim=1)
    found = [json.loads(line)[f"rewards/{side}"] for side in ("chosen", "rejected")]
    assert found == pytest.approx(gaps.tolist(), abs=1e-4)
