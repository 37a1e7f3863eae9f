"""What cannot be read is named before the weights are; what is saved, others read."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from hadpo import adapter, backbones, batch, trainer
from hadpo.config import TrainConfig
from hadpo.generation import Decoding, generate
from hadpo.records import BadInput, Pair, Question
from hadpo.vlm import hub
from tests.backbones.hf.conftest import FOLDERS

NAMED = {path.parent.name: path for path in FOLDERS}


@pytest.fixture
def copied(shared, tmp_path):
    """A recorded model without its weights, to be spoilt; whoever reads them finds none."""
    assert NAMED
    path = NAMED.get("qwen2_5_vl") or FOLDERS[0]
    names = [p for p in path.iterdir() if p.suffix in (".json", ".jinja")]
    for file in names:
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


def change(folder, name, **values):
    path = folder / name
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def load(folder):
    return backbones.load("hf/auto", {"language_model": folder}, dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: change(f, "config.json", model_type="llama"), "no image-text-to-text model"),
        (lambda f: change(f, "config.json", auto_map={"AutoModel": "m.M"}), "code of its own"),
        (lambda f: (f / "processor_config.json").unlink(), "no processor"),
        (
            lambda f: change(f, "processor_config.json", auto_map={"AutoProcessor": "p.P"}),
            "code of its own",
        ),
        (
            lambda f: (f / "chat_template.jinja").write_text("{{ messages[0]['role'] }}"),
            "no place for an image",
        ),
        (lambda f: (f / "chat_template.jinja").write_text("{{ raise_it() }}"), "template fails"),
        (lambda f: None, "no weights in"),
    ],
)
def test_refused_before_weights_are_read(copied, spoil, message):
    spoil(copied)
    with pytest.raises(BadInput, match=message):
        load(copied)


def test_a_missing_package_is_named(copied, monkeypatch):
    def fail(self, *_, **__):
        raise ImportError("Package `num2words` is required")

    kind = json.loads((copied / "processor_config.json").read_text())["processor_class"]
    monkeypatch.setattr(getattr(transformers, kind), "__init__", fail)
    with pytest.raises(BadInput, match=r"num2words.*pip install -e '\.\[vlm\]'"):
        load(copied)


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_class_that_leaves_out_its_softcap(shared, monkeypatch, caplog, factor):
    """As PaliGemma 2 of transformers 5.17: told, and applied; any other difference is refused."""
    configs = {path: hub.read_config(path) for path in FOLDERS}
    has_cap = "final_logit_softcapping"
    found = [p for p, c in configs.items() if getattr(c.get_text_config(), has_cap, None)]
    if not found:
        pytest.skip("no recorded model has a softcap behind its head")
    path = found[0]

    def forward(self, **row):
        return SimpleNamespace(logits=factor * self.lm_head(self.model(**row).last_hidden_state))

    kind = getattr(transformers, configs[path].architectures[0])
    monkeypatch.setattr(kind, "forward", forward)
    if factor == 1.0:
        assert load(path).logit_softcap == getattr(configs[path].get_text_config(), has_cap)
        assert f"{kind.__name__} of transformers" in caplog.text and has_cap in caplog.text
    else:
        with pytest.raises(BadInput, match="its logits are not its output layer"):
            load(path)


def test_a_processor_that_hides_behind_torchvision(shared, monkeypatch):
    """Transformers 5.17 puts a placeholder before a Pil class that works without it."""
    path = NAMED.get("smolvlm") or FOLDERS[0]
    pytest.importorskip("num2words", reason="SmolVLM's processor needs the extra vlm")
    expected = type(hub.read_processor(path, "smolvlm").image_processor)

    class Placeholder:
        __module__ = expected.__module__
        _backends = ("torchvision",)

    monkeypatch.setattr(transformers, expected.__name__, Placeholder)
    assert type(hub.read_processor(path, "smolvlm").image_processor) is expected


def test_questions_without_a_picture(case):
    """As the class itself answers its own row of words, or refused by name."""
    backbone, text = case.backbone, "Is water wet?"
    if case.meta["inputs_made_by"] == "hand":
        pytest.skip("its rows are recorded for their own images")
    if not backbone.chat._template:
        with pytest.raises(BadInput, match="questions about images only"):
            backbone.text_ids(text, prompt="evaluate")
        return
    ids = [backbone.text_ids(text, prompt="evaluate") for text in (text, "Why?")]
    assert all(i != backbone.chat.image_id for row in ids for i in row)
    logits, _ = backbone.reader(ids, [text, "Why?"], None, [0, 0])([0, 1])
    with torch.no_grad():
        for row, asked, found in zip(ids, (text, "Why?"), logits, strict=True):
            whole = backbone.whole_row(asked, {})
            assert whole["input_ids"][0].tolist() == row
            expected = backbone.language_model(**whole, use_cache=False).logits[0, -1]
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


def test_two_images_in_one_prompt_are_refused(case):
    mark = case.backbone.chat.image_token
    with pytest.raises(BadInput, match="exactly one image"):
        case.backbone.prefix(f"Is {mark} like it?", case.examples[0].image, prompt="train")


def test_layouts_that_a_class_cannot_read_are_refused(case):
    backbone = case.backbone
    if backbone.has_kernel:
        backbone.check_rows("segments", 2)
        return
    with pytest.raises(BadInput, match="attention: found segments"):
        backbone.check_rows("segments", 1)
    if not backbone.shares_image:
        with pytest.raises(BadInput, match="pairs_per_row: found 2"):
            backbone.check_rows("dense", 2)


def test_pairs_of_one_image_share_a_row(case):
    """A tree of two questions about one image gives each pair what it has alone."""
    if not case.backbone.shares_image:
        pytest.skip("prompts of this class see themselves in both directions, or carry a state")
    first = case.examples[0]
    text = case.examples[1].instruction
    other = replace(
        case.examples[1],
        image=first.image,
        prefix=tuple(case.backbone.prefix(text, first.image, prompt="train")),
    )
    with torch.no_grad():
        rows = [batch.pack_rows([[first, other]]), batch.pack_rows([[first], [other]])]
        both, alone = (
            batch.token_table(
                case.backbone, packed, batch.embed(case.backbone, packed, case.pixels[:1])
            )
            for packed in rows
        )
        assert (both - alone).abs().max() <= 1e-12
        if case.backbone.has_kernel:
            case.backbone.attention = "segments"
            inputs = batch.embed(case.backbone, rows[0], case.pixels[:1])
            parts = batch.token_table(case.backbone, rows[0], inputs)
            case.backbone.attention = "dense"
            assert (parts - alone).abs().max() <= 1e-12


def test_questions_of_one_image_are_answered_as_alone(case):
    if case.meta["inputs_made_by"] == "hand":
        pytest.skip("its rows are recorded for their own images")
    image = case.examples[0].image
    questions = [
        Question(question_id=str(i), benchmark="b", split="s", image_id="0", image=image, text=pair)
        for i, pair in enumerate(e.instruction for e in case.examples)
    ]
    for beams in (1, 3):
        decoding = Decoding(name="d", max_new_tokens=6, beams=beams)
        together, alone = (
            [a.text for a in generate(case.backbone, questions, decoding, model="m", exact=exact)]
            for exact in (False, True)
        )
        assert together == alone and any(together)


def test_it_trains_saves_and_peft_reads_the_adapter(open_case, tmp_path):
    """Two updates; `PeftModel` gives the merged logits; the saved folder gives them again."""
    case = open_case(torch.float32)
    if case.meta["inputs_made_by"] == "hand":
        pytest.skip("its rows are recorded for their own images")
    pairs = [
        Pair(
            pair_id=e.pair_id,
            kind="pope",
            image_id=e.pair_id,
            image=e.image,
            instruction=e.instruction,
            chosen=pair["chosen"],
            rejected=pair["rejected"],
            source="recorded",
        )
        for e, pair in zip(case.examples, case.meta["pairs"], strict=True)
    ]
    can_recompute = case.backbone.decoder.supports_gradient_checkpointing
    settings = TrainConfig(
        steps=2,
        batch_pairs=3,
        lora_rank=2,
        lora_alpha=4,
        learning_rate=1e-2,
        lora_targets="q_proj,v_proj",
        description_share=-1,
        reference="cache",
        vision_cache_gb=0.1,
        activation_checkpointing=can_recompute,
    )
    steps = list(trainer.steps(case.backbone, pairs, settings, cache=tmp_path / "cache"))
    assert len(steps) == 2 and steps[0].metrics["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert steps[1].metrics["loss"] < steps[0].metrics["loss"]
    adapter.save(case.backbone, tmp_path / "adapter")
    adapter.lora.merge(case.backbone)
    with torch.no_grad():
        merged = case.tables()
    case.backbone.save_original(tmp_path / "merged", dtype=torch.float32)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    base = AutoModelForImageTextToText.from_pretrained(case.folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert not any(
        "vision" in n or "visual" in n for n, _ in tuned.named_parameters() if "lora" in n
    )
    row = case.backbone.whole_row(pairs[0].instruction, case.pixels[0])
    implementation = case.backbone.implementation
    with torch.no_grad():
        own = case.backbone.language_model.eval()
        if implementation == "eager":
            again.set_attn_implementation("eager")
            tuned.get_base_model().set_attn_implementation("eager")
        expected = own(**row).logits
        limit = 2e-4 if case.backbone.is_hybrid else 1e-5 * float(expected.abs().max().clamp(min=1))
        assert (again.eval()(**row).logits - expected).abs().max() <= limit
        assert (tuned.eval()(**row).logits - expected).abs().max() <= 10 * limit
    assert merged.isfinite().all()
