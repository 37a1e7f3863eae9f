import dataclasses
import importlib.util
import os
import sys
from types import SimpleNamespace

import pytest

from hadpo import config, doctor
from hadpo.doctor import machine
from hadpo.records import BadInput
from hadpo.runs.run import open_run


def test_this_machine_is_described():
    report = doctor.check()
    whats = {row["what"] for row in report.rows}
    assert {"python", "torch", "device", "disk"} <= whats
    assert report.is_healthy, report.to_text()


@pytest.mark.parametrize(
    ("source", "status"), [('raise RuntimeError("no operator nms")', "broken"), ("", "ok")]
)
def test_a_torchvision_that_does_not_fit_is_found(tmp_path, monkeypatch, source, status):
    """It breaks every import of transformers; nothing that needs one is looked at then."""
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text(source)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(tmp_path))
    report = doctor.check("mini/llava" if status == "broken" else "")
    rows = {row["what"]: row for row in report.rows}
    assert rows["torchvision"]["status"] == status
    if status == "broken":
        assert "transformers cannot be imported: RuntimeError: no operator nms" in str(rows)
        assert rows["torchvision"]["fix"] == "pip uninstall torchvision"
        assert not report.is_healthy
        assert [what for what in rows if "llava" in what or "language" in what] == []


@pytest.mark.parametrize(("gpu", "status"), [(None, "ok"), ((8, 0), "warning")])
def test_four_bits_are_missed_only_with_a_gpu(monkeypatch, gpu, status):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    monkeypatch.setattr("hadpo.doctor.machine.capability", lambda: gpu)
    [row] = [row for row in doctor.check().rows if row["what"] == "bitsandbytes"]
    assert row["status"] == status
    assert bool(row["fix"]) == (status == "warning")


def test_a_real_recipe_says_what_is_missing_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HADPO_DATA", str(tmp_path / "data"))
    report = doctor.check("llava-1.5-7b")
    missing = [row for row in report.rows if row["status"] == "missing"]
    assert len(missing) >= 9  # two parts of the backbone and the files of five data sets
    assert all(row["fix"] for row in missing)
    assert not report.is_healthy


def test_what_is_missing_is_all_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HADPO_SHARED", str(tmp_path / "nowhere"))
    run = open_run("prepare", "photoset", "a", {})
    with pytest.raises(BadInput) as caught:
        doctor.inputs(run)
    lines = str(caught.value).splitlines()
    assert lines[0] == "recipe photoset lacks files:"
    assert len(lines) >= 9
    assert all("HADPO_SHARED" in line for line in lines[1:])


def test_the_files_of_gavie_are_looked_for(tmp_path):
    recipe = tmp_path / "my.yaml"
    recipe.write_text(
        "extends: photoset\ndata:\n  gavie: /nowhere/set.json\n"
        "  gavie_regions: /nowhere/vg_annotation.json\n"
    )
    rows = {row["what"]: row for row in doctor.check(str(recipe)).rows}
    assert rows["GAVIE"]["status"] == rows["GAVIE regions"]["status"] == "missing"
    assert rows["GAVIE regions"]["found"] == "/nowhere/vg_annotation.json"


def test_all_files_of_shr_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HADPO_DATA", str(tmp_path))
    whats = {row["what"] for row in doctor.check("llava-1.5-7b").rows}
    wanted = {"val_images_final.json", "shr_factual_part1.jsonl", "shr_factual_part2.jsonl"}
    assert {f"SHR {name}" for name in wanted} <= whats


@pytest.mark.parametrize(
    ("capability", "built_for", "problem"),
    [
        ((9, 0), ["sm_80", "sm_90"], ""),
        ((8, 9), ["sm_80", "sm_90"], ""),  # kernels of 8.0 run on 8.9
        ((9, 0), ["sm_90a"], ""),
        ((9, 1), ["sm_90a"], "newer"),  # that one is for 9.0 alone
        ((7, 0), ["sm_75", "sm_80"], "no kernels"),  # V100 and a torch that left it behind
        ((12, 1), ["sm_80", "sm_90"], "newer than this torch knows"),
        ((12, 1), ["sm_90", "sm_120"], ""),
        ((13, 0), ["sm_90", "sm_120", "compute_120"], ""),  # compiled when first used
        ((10, 0), ["sm_90", "sm_120"], "no kernels"),
        ((8, 0), [], "no kernels"),
    ],
)
def test_a_gpu_that_this_torch_cannot_use_is_said(capability, built_for, problem):
    found, fix = doctor.missing_kernels(capability, built_for)
    assert problem in found
    assert bool(found) == bool(fix) == bool(problem)


def test_the_terms_stand_apart_and_the_verdict_names_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path))
    monkeypatch.setenv("HADPO_DATA", str(tmp_path))
    rows = {row["what"]: row for row in doctor.check("llava-1.5-7b-v100").rows}
    for term in ("weights", "adapter", "activations", "logits", "total"):
        assert " GB; " in rows[f"memory: {term}"]["found"]
    assert "V100 32 GB (float16)" in rows["GPU"]["found"]
    assert "nf4" in rows["numbers"]["found"]
    full = {row["what"]: row for row in doctor.check("llava-1.5-7b").rows}
    assert "not on V100 16 GB, V100 32 GB: bfloat16" in full["GPU"]["found"]


def test_a_gpu_that_cannot_do_it_is_said_with_what_it_can():
    recipe = config.load_recipe("llava-1.5-7b")
    recipe = dataclasses.replace(
        recipe, model=dataclasses.replace(recipe.model, quantization="int8")
    )
    (check,) = machine.memory_checks(recipe, (7, 0))
    assert check.status == "broken" and "use float16" in check.fix


def test_the_table_escapes_what_it_shows():
    check = doctor.Check(what="<b>", status="missing", found="a & b", fix="<script>")
    text = doctor.Report([check])._repr_html_()
    assert "<script>" not in text
    assert "a &amp; b" in text


def test_what_a_training_and_a_merge_write_and_need(monkeypatch, tmp_path):
    recipe = config.load_recipe("llava-1.5-7b", {"controls": "sft", "keep_steps": True})
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=100))
    sizes, _ = machine.sizes_of(recipe.model)
    trained = sizes.lora_weights(recipe.train.lora_rank, recipe.train.lora_targets)
    kept = 2 * trained * (3 * 12 + 4 * (100 // recipe.train.checkpoint_every))
    merged = 3 * 2 * (sizes.linear_weights + 2 * sizes.vocab * sizes.width)
    found = machine.disk_check(recipe, tmp_path).found
    assert found.endswith(f"the runs will take {(kept + merged) / 2**30:.0f} GiB")
    only = dataclasses.replace(recipe, stages=("evaluate",))
    assert machine.disk_check(only, tmp_path).found.endswith("the runs take little")
    monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(total=0))
    monkeypatch.setattr(machine, "_gpu_gib", lambda: 16.0)
    for total, card, status in (
        (2**40, None, "ok"),
        (2**40, (8, 0), "ok"),
        (2**34, None, "warning"),
        (2**34, (8, 0), "broken"),
    ):
        memory = SimpleNamespace(total=total)
        monkeypatch.setattr("psutil.virtual_memory", lambda memory=memory: memory)
        monkeypatch.setattr(machine, "capability", lambda card=card: card)
        (check,) = machine.merge_check(recipe)
        assert (check.status, check.fix != "") == (status, status != "ok")
    report = doctor.plan(recipe, ["merge"], tmp_path)
    assert "memory: merge" in [c.what for c in report.lacking]


def test_a_row_must_have_room_for_an_image():
    recipe = config.load_recipe("llava-1.5-7b", {"max_length": 576})
    whats = {c.what: c for c in machine.memory_checks(recipe, None)}
    assert whats["max_length"].status == "broken"
    assert whats["max_length"].found == "576, and one image takes 576 positions"
    with pytest.raises(BadInput, match=r"train\.max_length: .* greater than or equal to 16"):
        config.load_recipe("mini/llava", {"max_length": 1})


def rows_of(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("HADPO_MODELS", str(tmp_path))
    monkeypatch.setenv("HADPO_DATA", str(tmp_path))
    return {row["what"]: row for row in doctor.check(recipe).rows}


def test_what_to_turn_is_said_for_each_card_that_is_too_small(monkeypatch, tmp_path):
    row = rows_of("instructblip-13b", monkeypatch, tmp_path)["GPU"]
    assert row["found"].startswith("fits A100 80 GB (bfloat16), H100 80 GB (bfloat16)")
    assert "A100 40 GB: micro_batch_pairs=1" in row["fix"].split("; ")
    row = rows_of("hic-humour", monkeypatch, tmp_path)["GPU"]
    assert "V100 16 GB: micro_batch_pairs=1, activation_checkpointing=true, quantization=nf4" in (
        row["fix"].split("; ")
    )


def test_the_merge_and_the_hours_are_said(monkeypatch, tmp_path):
    rows = rows_of("llava-1.5-7b", monkeypatch, tmp_path)
    assert rows["memory: merge"]["found"].startswith("26 GiB of the host")
    hours = dict(part.split() for part in rows["hours"]["found"].partition(":")[0].split(", "))
    # 10,000 description pairs at 1.45 times what tools.speed count models for a pair of 100 tokens
    assert float(hours["A100"]) == pytest.approx(10_000 * 0.206 * 1.45 / 3600, rel=0.1)
    assert float(hours["H100"]) < 0.5 * float(hours["A100"])
    connector = rows_of("hic-humour", monkeypatch, tmp_path)
    assert connector["memory: adapter"]["found"] == "0.050 GB; the connector, adamw"
    assert "90000 updates" in connector["hours"]["found"]


def test_what_reads_words_is_missed_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HADPO_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nltk", None)
    rows = {row["what"]: row for row in doctor.check("chair").rows}
    assert (rows["chair: words"]["status"], rows["chair: words"]["fix"]) == (
        "warning",
        "install the extra: pip install 'hadpo[benchmarks]'",
    )
    assert "nltk, which reads words" in rows["chair: words"]["found"]
    mini = [row["what"] for row in doctor.check("mini/benchmarks").rows]
    assert not [what for what in mini if what.endswith(": words")]


ASKED = ("judge", "corrector", "engine server")


@pytest.mark.parametrize(
    ("stages", "given", "named"),
    [
        (["evaluate"], {"judge": "llm"}, [("judge", "missing"), ("judge", "warning")]),
        (["evaluate"], {"judge": "replay"}, [("judge", "missing")]),
        (["evaluate"], {"judge": "llm", "judge_model": "a"}, [("judge", "warning")]),
        (["evaluate"], {}, []),
        (
            ["evaluate"],
            {"engine": "server", "server_models": "base=a"},
            [("engine server", "warning")],
        ),
        (["train"], {"judge": "llm"}, []),
        (["prepare"], {"corrector": "llm"}, [("corrector", "missing"), ("corrector", "warning")]),
        (["prepare"], {"corrector": "llm", "corrector_model": "a"}, [("corrector", "warning")]),
    ],
)
def test_who_is_asked_on_a_server_needs_a_name_and_a_key(
    monkeypatch, tmp_path, stages, given, named
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    recipe = config.load_recipe("mini/llava", given)

    def found():
        report = doctor.plan(recipe, stages, tmp_path)
        return [(c.what, c.status) for c in report.checks if c.what in ASKED]

    assert found() == named
    monkeypatch.setenv("OPENAI_API_KEY", "any text")
    assert found() == [row for row in named if row[1] != "warning"]


def test_doctor_warns_of_a_judge_without_a_name_which_a_command_can_give(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any text")
    [row] = [row for row in doctor.check("mmhal").rows if row["what"] == "judge"]
    assert (row["status"], row["found"]) == ("warning", "llm, and no judge_model")
    assert row["fix"] == "-p judge_model=NAME, as the server has it"
