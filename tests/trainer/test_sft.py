"""Finetuning on instructions against the plain way: one row per sample, all logits, log_softmax."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from hadpo import adapter
from hadpo.trainer.update import Training, Window

from .conftest import RECORDED


def open_all(backbone, settings, seed=0):
    """Adapter and connector open, and no weight of theirs zero, so that all have a gradient."""
    adapter.trained.begin(backbone, settings)
    generator = torch.Generator().manual_seed(seed)
    for value in adapter.state(backbone).values():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        value.copy_(noise.to(value.dtype) * 0.1)


def plain_nll(backbone, record, *, limit=4096):
    """Negative log-likelihood of one sample's answer, in a row of its own, and its tokens."""
    prefix = backbone.expand(backbone.prompt_ids(record.instruction, prompt="train"))
    answer = backbone.response_ids(record.answer)[:limit]
    with Image.open(record.image) as image:
        pixels = backbone.preprocess(image)[None].to(backbone.dtype)
    tokens = backbone.connect(backbone.features(pixels), [record.instruction])
    ids = torch.tensor([[*prefix, *answer]])
    n = ids.shape[1]
    mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    hidden = backbone.hidden_states(backbone.embed(ids, tokens), mask, torch.arange(n)[None])
    logits = hidden[0] @ backbone.lm_head_weight.T
    target = torch.tensor(answer)
    logps = logits[len(prefix) - 1 : -1].log_softmax(-1)
    return -logps.gather(1, target[:, None]).sum(), len(answer)


def plain_loss(backbone, records, mean_over):
    """The loss of an update, and its parts' gradients."""
    total, counted = torch.zeros((), dtype=backbone.dtype), 0.0
    for record in records:
        nll, n = plain_nll(backbone, record)
        is_tokens = mean_over == "tokens"
        total = total + record.weight * (nll if is_tokens else nll / n)
        counted += record.weight * (n if is_tokens else 1)
    return total / counted


@pytest.mark.parametrize("case", RECORDED)
@pytest.mark.parametrize("mean_over", ["tokens", "answers"])
def test_loss_and_gradients_equal_one_row_per_sample(
    fast, golden, tiny_instructions, float64_norm, case, mean_over
):
    backbone = golden(case, "float64")
    is_shared = not backbone.image_tokens_depend_on_instruction
    settings = replace(
        fast,
        objective="sft",
        trained="adapter+connector",
        mean_over=mean_over,
        batch_pairs=10,
        micro_batch_pairs=4,
        pairs_per_row=3 if is_shared else 1,
        max_length=1024,
        max_grad_norm=0.0,
    )
    open_all(backbone, settings)
    training = Training(backbone, tiny_instructions, settings, None, "sft")
    expected = plain_loss(backbone, tiny_instructions, mean_over)
    gradients = torch.autograd.grad(expected, training.parameters)
    window = Window()
    training.update(0, training.prepare(range(10)), 0.0, window)
    reported = window.read(training.accelerator)
    assert reported["loss"] == pytest.approx(expected.item(), rel=1e-6)  # reported in float32
    assert len(training.parameters) == len(adapter.trained.state(backbone))
    for parameter, gradient in zip(training.parameters, gradients, strict=True):
        assert gradient.any()
        assert parameter.grad is not None
        assert (parameter.grad - gradient).abs().max() <= 1e-10 * gradient.abs().max() + 1e-16


@pytest.mark.parametrize("case", ["minigpt4_vicuna0", "mplug_owl", "instructblip_vicuna"])
def test_a_batch_of_8_instructions_is_8_batches_of_1(
    fast, golden, tiny_instructions, float64_norm, case
):
    """LRV's trainer gives all samples of a batch the first one's instruction."""
    records = tiny_instructions[:8]
    assert len({record.instruction for record in records}) == 8
    gradients = []
    for size in (8, 1):
        backbone = golden(case, "float64")
        settings = replace(
            fast, objective="sft", trained="adapter+connector", batch_pairs=8, max_grad_norm=0.0
        )
        settings = replace(settings, micro_batch_pairs=size, max_length=1024)
        open_all(backbone, settings)
        training = Training(backbone, records, settings, None, "sft")
        found = [torch.zeros_like(p) for p in training.parameters]
        if size == 8:
            training.update(0, training.prepare(range(8)), 0.0, Window())
            found = [p.grad for p in training.parameters]
        else:
            weights = sum(record.weight for record in records)
            for k, record in enumerate(records):
                training.update(0, training.prepare([k]), 0.0, Window())
                for total, p in zip(found, training.parameters, strict=True):
                    total += p.grad * record.weight / weights
        gradients.append(found)
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() <= 1e-10 * other.abs().max() + 1e-16  # key biases: 0


@pytest.mark.parametrize("case", RECORDED)
def test_the_originals_loss_is_reproduced(fast, golden, shared, tmp_path, case):
    """The cross-entropy that the authors' own forward gave: a mean over the tokens of a batch."""
    from safetensors.torch import load_file

    from hadpo import batch, loss
    from hadpo.records import Instruction
    from hadpo.trainer.examples import tokenize

    folder = shared / "golden" / case / "a"
    outputs = load_file(folder / "outputs.safetensors")
    texts = json.loads((folder / "text_cases.json").read_text())
    texts = texts["train_side"] if isinstance(texts, dict) else texts
    backbone = golden(case)
    settings = replace(fast, objective="sft", mean_over="tokens", max_length=4096)
    is_all = "ref_ce_loss_all" in outputs
    expected = outputs["ref_ce_loss_all" if is_all else "ref_ce_loss_chosen"]
    examples = []
    for k, text in enumerate(t for t in texts if is_all or t["side"] == "chosen"):
        question, answer = question_and_answer(case, text)
        record = Instruction(
            instruction_id=str(k),
            image_id=str(k % 2),
            image=str(k % 2),
            instruction=question,
            answer=answer,
            kind="positive",
            source="golden",
        )
        examples.append(tokenize(backbone, record, settings))
    packed = batch.pack(examples, sides=("chosen",))
    pixels = load_file(folder / "inputs.safetensors")["pixel_values"]
    with torch.no_grad():
        logps = batch.answer_logps(backbone, packed, batch.embed(backbone, packed, pixels))[0]
    losses = loss.language_model_loss(logps, packed.lengths[0])
    found = (losses * packed.lengths[0]).sum() / packed.lengths[0].sum()
    print(f"{case}: {found:.7f}, recorded {expected:.7f}")  # noqa: T201 - `pytest -s`
    assert abs(found - expected) <= 1e-5


def question_and_answer(case, text):
    if "text" in text:
        return text["text"].rpartition("\nHuman: ")[2].split("\nAI: ")
    if "question" in text:
        return text["question"], text["answer"]
    question = text["prompt"].split("</Img> ")[-1]
    for end in (" ###Assistant: ", " [/INST] "):
        question = question.removesuffix(end)
    return question, text["answer"]


def test_the_connector_opens_and_closes(golden):
    backbone = golden("minigpt4_vicuna0", "float16")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    opened = adapter.trained.open_connector(backbone)
    assert [p.dtype for p in opened] == [torch.float32] * 2
    assert set(adapter.trained.state(backbone)) == {"llama_proj.weight", "llama_proj.bias"}
    with torch.no_grad():
        opened[0].add_(1.0)
    adapter.trained.close_connector(backbone)
    after = backbone.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module._forward_pre_hooks for module in backbone.modules())


@pytest.mark.parametrize("case", RECORDED)
def test_a_saved_connector_loads_in_from_original(golden, tmp_path, case):
    backbone = golden(case)
    for parameter in adapter.trained.open_connector(backbone):
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    path = backbone.save_connector(tmp_path)
    again = golden(case, connector=path)
    expected = backbone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
