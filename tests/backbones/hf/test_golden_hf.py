"""Every class of the recordings: packed rows, gradients and answers are what the class says."""

import pytest
import torch
from PIL import Image

from hadpo import adapter, batch, loss
from hadpo.adapter import lora
from hadpo.generation import Decoding
from hadpo.generation.beam import decode_beams
from hadpo.generation.single import decode_single
from hadpo.vlm import hub
from hadpo.vlm.prompt import IMAGE
from tests.backbones.hf.conftest import FOLDERS, ROOT


def test_there_are_cases(shared):
    assert FOLDERS, f"no meta.json below {ROOT}"


def test_prompts_and_answers_have_the_class_own_ids(case):
    for number, (pair, example) in enumerate(zip(case.meta["pairs"], case.examples, strict=True)):
        ids = [case.backbone.chat.image_id if i == IMAGE else i for i in example.prefix]
        assert ids == case.given[number]["input_ids"][0].tolist()
        assert example.prefix.count(IMAGE) == pair["image_tokens"]
        assert len(ids) == pair["prompt_tokens"]
        assert [*example.chosen] == pair["chosen_ids"]
        assert [*example.rejected] == pair["rejected_ids"]
    assert case.backbone.end_id == case.meta["end_ids"][0]
    assert set(case.meta["end_ids"]) <= case.backbone.stop_ids


def test_pixels_are_the_class_own(case):
    if case.meta["inputs_made_by"] == "hand":
        pytest.skip("this class has no Pil image processor")
    for pair, expected in zip(case.meta["pairs"], case.pixels, strict=True):
        found = case.backbone.preprocess(Image.open(case.folder / pair["image"]).convert("RGB"))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_log_probabilities_loss_and_gradient(open_case, dtype):
    case = open_case(dtype)
    tolerance = dict(case.meta["tolerances"])
    if dtype == torch.float32:
        size = tolerance["float32_token_logp"]
        tolerance |= {"token_logp": size, "sum": 10 * size, "loss": 10 * size}
        tolerance["grad_relative_to_norm"] = 10 * size
    is_rough = dtype == torch.float32 and not case.meta["can_be_packed"]
    if is_rough:
        case.replace_by_own()
    with torch.no_grad():
        reference = case.tables()
    assert case.error(reference, "reference") <= tolerance["token_logp"]
    case.attach()
    with torch.no_grad(), adapter.disabled(case.backbone):
        assert torch.equal(case.tables(), reference)
    if is_rough:
        return
    policy = case.tables()
    assert case.error(policy, "policy") <= tolerance["token_logp"]
    for kind, table in (("reference", reference), ("policy", policy)):
        for number, pair in enumerate(case.meta["pairs"]):
            for side, name in enumerate(("chosen", "rejected")):
                found = float(table[side, number].sum())
                assert abs(found - pair[f"{kind}_{name}_sum"]) <= tolerance["sum"]
    losses = loss.preference_loss(
        *policy.sum(-1), *reference.sum(-1), beta=case.meta["beta"]
    ).losses
    assert abs(float(losses.mean()) - case.meta["loss"]) <= tolerance["loss"]
    losses.mean().backward()
    named = lora._parameters(case.backbone).items()
    found = {f"base_model.model.{n.replace('.default.', '.')}": p.grad for n, p in named}
    expected = {k.removeprefix("grad."): v for k, v in case.outputs.items() if "grad." in k}
    assert found.keys() == expected.keys()
    limit = tolerance["grad_relative_to_norm"] * case.meta["grad_norm"]
    for key, value in expected.items():
        assert (found[key] - value).norm() <= limit, key
    norm = torch.stack([value.norm() for value in found.values()]).norm()
    assert abs(float(norm) - case.meta["grad_norm"]) <= limit


def test_packed_rows_equal_two_rows(case):
    """Each answer in a row of its own, beside the packed row, in float64."""
    exact = 1e-12 if case.meta["attention"] == "sdpa" else case.meta["tolerances"]["token_logp"]
    if not case.meta["can_be_packed"]:
        assert "two rows a pair" in case.backbone.row_kind
        return
    assert case.backbone.row_kind == "packed"
    with torch.no_grad():
        packed = case.tables()
        for side, name in enumerate(("chosen", "rejected")):
            alone = batch.pack(case.examples, sides=(name,))
            inputs = batch.embed(case.backbone, alone, case.pixels)
            table = batch.token_table(case.backbone, alone, inputs)[0]
            own = packed[side, :, : table.shape[1]]
            assert (own - table).abs().max() <= exact


def _read(case, rows=(0, 1, 2)):
    examples = case.examples
    ids = [list(example.prefix) for example in examples]
    texts = [example.instruction for example in examples]
    count = range(len(examples))
    return case.backbone.reader(ids, texts, case.pixels, list(count))(list(rows))


def test_greedy_answers(open_case):
    case = open_case()
    backbone, outputs = case.backbone, case.outputs
    decoding = Decoding(name="greedy", max_new_tokens=case.meta["new_tokens"])
    rows = range(len(case.examples))

    def greedy():
        logits, state = _read(case, rows)
        return decode_single(backbone, logits, state, decoding, [str(row) for row in rows])

    backbone.stop_ids = frozenset(case.meta["stop_ids"])
    assert greedy() == [outputs[f"{row}.greedy_stopped"].tolist() for row in rows]
    backbone.stop_ids = frozenset()
    assert greedy() == [outputs[f"{row}.greedy"].tolist() for row in rows]
    logits, state = _read(case, rows)  # two beams without a second best: as `generate`, of one
    one = decode_beams(backbone, logits, state, Decoding(name="beam", beams=1, max_new_tokens=4))
    assert one == [outputs[f"{row}.greedy"].tolist()[:4] for row in rows]
    case.attach()
    assert greedy() == [outputs[f"{row}.adapted_greedy"].tolist() for row in rows]


def test_lora_lies_in_the_text_model_alone(case):
    """Towers have layers of the same names; not one of them may be changed."""
    text = case.backbone.decoder
    own = {id(module) for module in text.modules()}
    names = lora.linear(case.backbone)
    assert names and all(id(case.backbone.language_model.get_submodule(n)) in own for n in names)
    every = {
        name
        for name, module in case.backbone.language_model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert every - set(names), "the tower has linear layers, and they are left out"
    assert hub.image_id(case.backbone.language_model.config) == case.meta["image_token_id"]
