"""Each known way to get MiniGPT-4 and InstructBLIP wrong, put into a loaded backbone.

The recorded numbers, or the recorded ids, must break. Epsilons are in test_epsilons.py.
"""

import copy

import pytest
import torch
from torch import nn

from hadpo import backbones
from hadpo.vlm.prompt import Prompts, PromptTemplate

LLAMA2, VICUNA0, BLIP = "minigpt4_llama2", "minigpt4_vicuna0", "instructblip_vicuna"
EVERY = (LLAMA2, VICUNA0, BLIP)


class Gelu(nn.Module):
    """quick: x sigmoid(1.702 x); else the tanh form."""

    def __init__(self, *, quick):
        super().__init__()
        self.quick = quick

    def forward(self, x):
        return (
            x * torch.sigmoid(1.702 * x)
            if self.quick
            else nn.functional.gelu(x, approximate="tanh")
        )


def encoder_act(*, quick):
    def put_in(backbone):
        for layer in backbone.vision.encoder.layers:
            layer.mlp.activation_fn = Gelu(quick=quick)

    return put_in


def qformer_act(backbone):
    for layer in backbone.connector.transformer.encoder.layer:
        for name in ("intermediate", "intermediate_query"):
            if hasattr(layer, name):
                getattr(layer, name).intermediate_act_fn = Gelu(quick=False)


def without_query_bias(backbone):
    for layer in backbone.vision.encoder.layers:
        width = layer.self_attn.qkv.in_features
        layer.self_attn.qkv.bias[:width] = 0


def with_cls(backbone):
    joined = backbone.connector
    joined.forward = lambda f: joined.projection(f[:, :-1].unflatten(1, (-1, 4)).flatten(2))


def squares(backbone):
    joined = backbone.connector

    def forward(features):
        side = round((features.shape[1] - 1) ** 0.5)
        grid = features[:, 1:].unflatten(1, (side // 2, 2, side // 2, 2))
        return joined.projection(grid.transpose(2, 3).flatten(3, 5).flatten(1, 2))

    joined.forward = forward


def final_eps(backbone):
    for module in backbone.language_model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon *= 0.1 if module.variance_epsilon > 5e-6 else 10


def rotary_fp16(backbone):
    rotary = backbone.language_model.model.rotary_emb

    def rounded(*arguments, forward=rotary.forward, **named):
        return tuple(table.half().float() for table in forward(*arguments, **named))

    rotary.forward = rounded


def norm_of_blip2(backbone):
    torch.manual_seed(0)
    backbone.vision.ln_vision.weight.mul_(1 + 0.2 * torch.randn(32))


def norm_at_identity(backbone):
    backbone.vision.reset_norm(dtype=torch.float32, device=torch.device("cpu"))


def without_query_norm(backbone):
    backbone.connector.transformer.layernorm.forward = lambda states: states


def crossing_everywhere_else(backbone):
    layer = backbone.connector.transformer.encoder.layer[0]
    layer.has_cross_attention = False


def without_text(backbone):
    qformer = backbone.connector

    def states(features, text=None, is_text=None):
        return type(qformer).states(qformer, features, text[:, :0], is_text[:, :0])

    qformer.states = states


def padding_seen(backbone):
    qformer = backbone.connector

    def states(features, text=None, is_text=None):
        return type(qformer).states(qformer, features, text, torch.ones_like(is_text))

    qformer.states = states


def text_half_for_queries(backbone):
    for layer in backbone.connector.transformer.encoder.layer:
        layer.intermediate_query, layer.output_query = layer.intermediate, layer.output


def text_outputs_too(backbone):
    qformer = backbone.connector

    def forward(features, text, is_text):
        return qformer.projection(qformer.states(features, text, is_text)[:, 1:][:, :4])

    qformer.forward = forward


def prompt(change):
    def put_in(backbone):
        text = backbone.PROMPTS.train.text
        assert change(text) != text
        template = PromptTemplate(change(text))
        backbone.PROMPTS = Prompts(train=template, evaluate=template)

    return put_in


# wrong choice -> cases, what puts it in, how the recordings call it
PITFALLS = {
    "ViT quick_gelu": (
        (LLAMA2, VICUNA0),
        encoder_act(quick=True),
        "ViT act quick_gelu instead of gelu(erf)",
    ),
    "ViT gelu(tanh)": (EVERY, encoder_act(quick=False), "ViT act gelu(tanh)"),
    "q_bias dropped": (EVERY, without_query_bias, "q_bias dropped"),
    "CLS kept, last patch dropped": ((LLAMA2,), with_cls, "CLS kept"),
    "2x2 grouping": ((LLAMA2,), squares, "2x2 spatial grouping"),
    "LLaMA rms eps": (EVERY, final_eps, "LLaMA rms eps"),
    "rotary tables in fp16": (EVERY, rotary_fp16, "rotary tables rounded to fp16"),
    "ln_vision scaled": ((LLAMA2,), norm_of_blip2, None),
    "ln_vision left at identity": ((VICUNA0, BLIP), norm_at_identity, "ln_vision left"),
    "queries not normed first": ((VICUNA0,), without_query_norm, None),
    "no look at the image in layer 0": ((VICUNA0, BLIP), crossing_everywhere_else, None),
    "Q-Former gelu(tanh)": ((VICUNA0, BLIP), qformer_act, "Q-Former act gelu(tanh)"),
    "Q-Former without instruction": ((BLIP,), without_text, "Q-Former without instruction"),
    "text padding seen": ((BLIP,), padding_seen, "Q-Former text padding not masked"),
    "text half for the queries": ((BLIP,), text_half_for_queries, "text FFN weights"),
    "other outputs projected": ((BLIP,), text_outputs_too, None),
}
PUT_IN = [(case, name) for name, (cases, *_) in PITFALLS.items() for case in cases]


@pytest.fixture(scope="module")
def loaded(recordings):
    return {case: recordings[case].load() for case in EVERY}


@pytest.mark.parametrize(("case", "name"), PUT_IN)
def test_recorded_numbers_break(recordings, loaded, case, name):
    recording, (_, put_in, called) = recordings[case], PITFALLS[name]
    backbone = copy.deepcopy(loaded[case])
    with torch.no_grad():
        put_in(backbone)
    most = recording.measure(backbone, quick=True)["logits"]
    assert most > recording.tolerance["logits"]
    measured = recording.meta["sensitivity_max_abs_logit_change"]
    for text, change in measured.items():
        if called and text.startswith(called):  # the authors' code, wrong in the same way
            assert change / 3 < most < change * 3, (most, change)


PROMPT_PITFALLS = {
    "no begin marker": (EVERY, lambda text: text.replace("<s>", "").replace("</s>", "")),
    "begin marker of LLaMA": ((BLIP,), lambda text: text.replace("</s>", "<s>")),
    "begin marker before the image": ((BLIP,), lambda text: "</s><image>{instruction}"),
    "no blank at the end": ((LLAMA2, VICUNA0), str.rstrip),
    "no blank behind </Img>": ((LLAMA2, VICUNA0), lambda text: text.replace("</Img> ", "</Img>")),
    "one more cut": ((LLAMA2, VICUNA0), lambda text: text.replace("</Img> ", "</Img><|> ")),
    "the system sentence in training": (
        (LLAMA2, VICUNA0),
        lambda text: text.replace("<s>", "<s>Give the following image."),
    ),
}


@pytest.mark.parametrize(
    ("case", "name"), [(c, name) for name, (cases, _) in PROMPT_PITFALLS.items() for c in cases]
)
def test_recorded_ids_break(recordings, loaded, case, name):
    recording, backbone = recordings[case], copy.copy(loaded[case])
    prompt(PROMPT_PITFALLS[name][1])(backbone)
    for k, pair in enumerate(recording.pairs()):
        ids = backbone.expand(backbone.prompt_ids(pair.instruction, prompt="train"))
        real = recording.inputs["concat_attention_mask"][k].bool()
        recorded = recording.inputs["concat_input_ids"][k][real].tolist()
        assert ids + backbone.response_ids(pair.chosen) != recorded


def test_pad_row_belongs_to_the_recorded_softmax(recordings, loaded, writable):
    recording = recordings[BLIP]
    name, files = writable(BLIP)  # without llm_pad_rows.safetensors
    without = backbones.load(name, files, dtype="float32", device="cpu")
    n = without.tokenizer.vocab_size
    assert without.lm_head_weight.shape[0] == n == loaded[BLIP].lm_head_weight.shape[0] - 1
    found = recording.measure(without)
    assert found["logits"] < recording.tolerance["logits"]  # the others' logits are the same
    measured = recording.meta["sensitivity_max_abs_logit_change"]
    (change,) = [v for k, v in measured.items() if "[PAD] logit is left out" in k]
    assert found["sum_logps"] == pytest.approx(change, rel=0.3)


def test_key_biases_are_zero(loaded):
    for backbone in loaded.values():
        layers = backbone.vision.encoder.layers
        for layer in layers:
            query, key, value = layer.self_attn.qkv.bias.chunk(3)
            assert not key.any() and query.abs().min() > 0 and value.abs().min() > 0


def test_ln_vision_of_llama2_is_pytorchs_start(loaded):
    norm = loaded[LLAMA2].vision.ln_vision
    assert (norm.weight == 1).all() and not norm.bias.any()
    assert all((loaded[case].vision.ln_vision.weight != 1).any() for case in (VICUNA0, BLIP))
