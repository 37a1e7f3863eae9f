"""What training and answering cost: operations, bytes, and the GPUs that have them. Needs no torch.

The one model that the trainer's plan, the doctor, generation and tools/speed estimate with. A
multiplication and an addition are two operations. h is the language model's width, I that of its
MLP; a LLaMA layer has 4 h^2 + 3 h I weights in its linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hadpo.config import TrainConfig, names

BITS = {  # of a weight; 4 bits with their scales
    **{"float32": 32.0, "bfloat16": 16.0, "float16": 16.0},
    **{"nf4": 4.127, "fp4": 4.127, "int8": 8.0},
}
_BACKWARD_ATTENTION = 2.5  # products of the attention's backward pass over those of its forward
_LOGITS = 2**24  # that exist at one time (loss.CHUNK_VALUES)
_PROMPT, _ANSWER = 40, 100  # tokens of a description's prompt, and of each of its answers
_QUESTION_TOKENS = 64  # behind the image, and before it


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes of a vision-language model; the defaults are LLaMA-7B's.

    A backbone declares those of each published model, for estimates before its files are there.
    """

    width: int = 4096  # of the language model, as all up to `vocab`
    inner: int = 11008  # width of its MLP
    layers: int = 32
    vocab: int = 32000
    query_width: int = 0  # of a position's queries, over all heads; 0: `width`
    key_width: int = 0  # of its keys, fewer heads where queries share them; 0: `width`
    is_tied: bool = False  # the head is the embedding
    others: int  # weights of encoder and connector
    connector: int = 0  # of these, what is trained with `trained: connector`
    image_tokens: int  # of one image

    @property
    def linear_weights(self) -> int:
        """Weights of the linear layers in all decoder layers."""
        attention = 2 * self.width * (self._queries + self._keys)
        return self.layers * (attention + 3 * self.width * self.inner)

    @property
    def _queries(self) -> int:
        return self.query_width or self.width

    @property
    def _keys(self) -> int:
        return self.key_width or self.width

    @property
    def other_weights(self) -> int:
        """All but these: encoder, connector, embeddings, output layer and norms."""
        tables = (1 if self.is_tied else 2) * self.vocab
        return self.others + (tables + 2 * self.layers + 1) * self.width

    def trained(self, train: TrainConfig) -> int:
        """Weights that learn: of the adapter, of the connector, or of both."""
        lora = self.lora_weights(train.lora_rank, train.lora_targets)
        return lora * ("adapter" in train.trained) + self.connector * ("connector" in train.trained)

    def lora_weights(self, rank: int, targets: str) -> int:
        """Weights of a LoRA on the modules `targets`, comma separated."""
        h, inner = self.width, self.inner
        mlp = ("up_proj", "gate_proj", "down_proj")
        modules = names(targets)
        widths = dict.fromkeys(mlp, h + inner) | {
            **dict.fromkeys(("k_proj", "v_proj"), h + self._keys),
            **dict.fromkeys(("q_proj", "o_proj"), h + self._queries),
        }
        layer = sum(widths.get(name, 2 * h) for name in modules if name != "lm_head")
        head = h + self.vocab if "lm_head" in modules else 0
        return rank * (self.layers * layer + head)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A packed row, [common | rest | answers | rest | answers ...], in numbers of positions."""

    common: int  # of the prefixes of its pairs, image tokens above all
    rests: Sequence[int]  # of each pair's prefix, behind the common part
    answers: Sequence[Sequence[int]]  # tokens of each pair's answers

    @property
    def scored(self) -> int:
        """Answer tokens, whose log-probabilities are computed."""
        return sum(map(sum, self.answers))

    @property
    def positions(self) -> int:
        """Positions that are read."""
        return self.common + sum(self.rests) + self.scored

    @property
    def looks(self) -> int:
        """Pairs of positions of which one looks at the other."""
        looks = _triangle(self.common)
        for rest, answers in zip(self.rests, self.answers, strict=True):
            looks += self.common * rest + _triangle(rest)
            looks += sum((self.common + rest) * n + _triangle(n) for n in answers)
        return looks


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Operations of a model's parts."""

    linear: float  # of the language model's layers, per position
    attention: float  # per look
    head: float  # per answer token
    lora: float = 0.0  # per position
    vision: float = 0.0  # per image, connector included

    @classmethod
    def of(cls, sizes: ModelSizes, *, lora_weights: int = 0, vision: float = 0.0) -> Operations:
        """Those of a model, whose encoder and connector take `vision` for an image."""
        return cls(
            linear=2 * sizes.linear_weights,
            attention=4 * (sizes.query_width or sizes.width) * sizes.layers,
            head=2 * sizes.width * sizes.vocab,
            lora=2 * lora_weights,
            vision=vision,
        )

    def forward(self, row: Row) -> float:
        """One pass of the base over a row, its answer tokens scored."""
        return self.linear * row.positions + self.attention * row.looks + self.head * row.scored

    def train(self, row: Row, *, recomputes: bool = False, reads_reference: bool = False) -> float:
        """The policy's forward and backward pass over a row, without its images.

        Frozen weights cost one product in backward, where a LoRA costs two.

        Args:
            row: what is read.
            recomputes: activations, in the backward pass.
            reads_reference: with the adapter off, on the same row.
        """
        forward, head = self.forward(row), self.head * row.scored
        backward = self.linear * row.positions + _BACKWARD_ATTENTION * self.attention * row.looks
        total = forward + backward + head + 3 * self.lora * row.positions
        if recomputes:
            total += forward - head + self.lora * row.positions
        if reads_reference:
            total += forward
        return total


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes that a training step keeps at its peak, in one process."""

    weights: float
    adapter: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Their sum, without what CUDA and its allocator add."""
        return self.weights + self.adapter + self.activations + self.logits


def step_memory(
    sizes: ModelSizes,
    train: TrainConfig,
    *,
    weights: float,
    trained: int,
    number_bytes: float,
    positions: int,
    scored: int,
    is_quantised: bool = False,
) -> StepMemory:
    """What a training step keeps at its peak.

    A LLaMA layer keeps what `_kept_bytes` says for its backward pass, or h numbers if it recomputes
    them (one layer at a time is then there in full). Counted on the meta device at true sizes, for
    every recipe: tests/tools/speed/test_count.py. On a CPU the scores of attention, which GPU
    kernels never write out, come on top.

    Args:
        sizes: of the model.
        train: optimizer and recomputation are read.
        weights: bytes of the frozen weights.
        trained: number of weights that learn.
        number_bytes: of one number of the activations.
        positions: of the largest micro-batch.
        scored: answer tokens of it.
        is_quantised: the language model; peft then computes LoRA in float32.
    """
    h = sizes.width
    per_weight = 10.0 if train.optimizer == "adamw_8bit" else 16.0  # weight, gradient, two moments
    if "adapter" in train.trained and number_bytes < 4 and not is_quantised:
        per_weight += number_bytes  # the copy that is computed with
    layer = positions * _kept_bytes(sizes, train, number_bytes, is_quantised=is_quantised)
    activations = positions * h * (number_bytes + 4)  # the embeddings; what the last norm keeps
    logits = 3 * 4 * min(_LOGITS, scored * sizes.vocab)
    if train.activation_checkpointing:  # the logits are gone when the first layer is there again
        activations += positions * sizes.layers * h * number_bytes + max(0, layer - logits)
    else:
        activations += sizes.layers * layer
    return StepMemory(
        weights=weights,
        adapter=trained * per_weight,
        activations=float(activations),
        logits=float(logits + scored * h * number_bytes),
    )


def _kept_bytes(
    sizes: ModelSizes, train: TrainConfig, number_bytes: float, *, is_quantised: bool
) -> float:
    """Bytes that a layer keeps of a position.

    Both norms keep their input in float32. Attention keeps queries, keys, values and its output,
    SwiGLU its gate before and after, and the other half. A LoRA keeps its input, which q, k and v
    share, as gate and up do; o's is attention's output. peft keeps it in float32, each for itself.
    """
    h, inner = sizes.width, sizes.inner
    targets = set(names(train.lora_targets)) if "adapter" in train.trained else set()
    numbers = 4 * h + 3 * inner
    numbers += h * bool(targets & {"q_proj", "k_proj", "v_proj"})
    numbers += h * bool(targets & {"gate_proj", "up_proj"}) + inner * ("down_proj" in targets)
    copies = sum(inner if t == "down_proj" else h for t in targets) if is_quantised else 0
    return 2 * 4 * h + numbers * number_bytes + 4 * copies


def training_memory(
    sizes: ModelSizes,
    train: TrainConfig,
    *,
    dtype: str,
    quantization: str = "none",
    positions: int | None = None,
) -> StepMemory:
    """`step_memory` from sizes alone, before there is a model.

    Weights are frozen in `dtype`, those of the language model's linear layers in `quantization`. A
    micro-batch has `positions`; None: description pairs with answers of 100 tokens.
    """
    number_bytes = BITS[dtype] / 8
    linear_bytes = BITS[dtype if quantization == "none" else quantization] / 8
    rows = usual_rows(sizes, train)
    scored = sum(row.scored for row in rows)
    if positions is None:
        positions = sum(row.positions for row in rows)
    return step_memory(
        sizes,
        train,
        weights=sizes.linear_weights * linear_bytes + sizes.other_weights * number_bytes,
        trained=sizes.trained(train),
        number_bytes=number_bytes,
        positions=positions,
        scored=scored,
        is_quantised=quantization != "none",
    )


def usual_rows(sizes: ModelSizes, train: TrainConfig) -> list[Row]:
    """The rows of a micro-batch before there are data: description pairs with answers of 100."""
    answer = max(1, min(_ANSWER, train.max_length - sizes.image_tokens - _PROMPT))
    k = min(train.pairs_per_row, train.micro_batch_pairs)
    answers = ((answer,) * (2 if train.objective == "dpo" else 1),) * k
    row = Row(common=sizes.image_tokens, rests=(_PROMPT,) * k, answers=answers)
    return [row] * math.ceil(train.micro_batch_pairs / k)


def usual_seconds(sizes: ModelSizes, train: TrainConfig, gpu: Gpu, *, dtype: str) -> float:
    """Modelled time of a micro-batch of `usual_rows`; an encoder reads 257 positions or more."""
    rows, number_bytes = usual_rows(sizes, train), BITS[dtype] / 8
    lora = sizes.lora_weights(train.lora_rank, train.lora_targets)
    vision = 2.0 * sizes.others * max(257, sizes.image_tokens + 1)
    price = Operations.of(sizes, lora_weights=lora * ("adapter" in train.trained), vision=vision)
    work = Work.of_step(
        sizes,
        train,
        price,
        rows,
        images=len(rows),
        objective=train.objective,
        number_bytes=number_bytes,
    )
    return gpu.seconds(work, number_bytes=number_bytes)


def question_memory(
    sizes: ModelSizes, *, number_bytes: int, beams: int, max_new_tokens: int
) -> int:
    """Bytes that a question with an image of its own takes at most while it is answered.

    Counted are keys and values, the widest activations of the prompt, and the scores of a step.
    """
    token = 2 * sizes.layers * (sizes.key_width or sizes.width) * number_bytes
    prompt = sizes.image_tokens + _QUESTION_TOKENS
    grown = token * beams * (_QUESTION_TOKENS + max_new_tokens)
    widest = prompt * (6 * sizes.width + 3 * sizes.inner) * number_bytes
    scores = 4 * 4 * beams * sizes.vocab  # float32; sorted and copied
    return token * prompt + 2 * grown + widest + scores  # old and new keys at a time


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a device does in a micro-batch."""

    operations: float
    weight_bytes: float = 0.0  # read, over all passes
    moved_bytes: float = 0.0  # by norms, rotary, SwiGLU and residuals
    launches: float = 0.0

    @classmethod
    def of_step(
        cls,
        sizes: ModelSizes,
        train: TrainConfig,
        price: Operations,
        rows: Sequence[Row],
        *,
        images: int,
        objective: str,
        number_bytes: float,
        positions: int | None = None,
    ) -> Work:
        """A backward pass and forward ones (a reference, and a recomputation, are one each).

        Bytes and launches of a layer were counted on the meta device (tools.speed count).
        `images` are encoded; `positions` are read, padding included (None: there is none).
        """
        recomputes = train.activation_checkpointing
        reads = objective == "dpo" and train.reference == "adapter_off"
        operations = price.vision * images + sum(
            price.train(row, recomputes=recomputes, reads_reference=reads) for row in rows
        )
        if positions is None:
            positions = sum(row.positions for row in rows)
        passes = 1 + recomputes + reads
        forward = 84 * sizes.width + 5 * sizes.inner  # numbers that are read or written
        return cls(
            operations=operations,
            weight_bytes=sizes.linear_weights * number_bytes * (passes + 1),
            moved_bytes=positions * sizes.layers * forward * number_bytes * (passes + 1.95),
            launches=sizes.layers * (52 * passes + 138),
        )


class Peaks(NamedTuple):
    """What a device does at most."""

    tflops: float  # in 16 bits
    float32_tflops: float  # without TF32
    gigabytes_a_second: float  # of its memory


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU."""

    gigabytes: tuple[int, ...]  # as it is sold
    capability: tuple[int, int]
    peaks: Peaks

    def seconds(self, work: Work, *, number_bytes: float = 2) -> float:
        """Modelled time of a micro-batch: the device's, or the host's if launching takes longer.

        The device computes products and moves all else; a real kernel takes `_OVER_ROOFLINE` times
        as long. Within 10 % of what tools.speed counts, before that factor; no GPU was timed yet.
        """
        peak = self.peaks.tflops if number_bytes < 4 else self.peaks.float32_tflops
        bandwidth = self.peaks.gigabytes_a_second * 1e9
        products = max(work.operations / (peak * 1e12), work.weight_bytes / bandwidth)
        device = _OVER_ROOFLINE * (products + work.moved_bytes / bandwidth)
        return max(device, work.launches * _LAUNCH_SECONDS)


GPUS = {  # part of a device's name -> what it is
    "V100": Gpu(gigabytes=(16, 32), capability=(7, 0), peaks=Peaks(125, 15.7, 900)),
    "A100": Gpu(gigabytes=(40, 80), capability=(8, 0), peaks=Peaks(312, 19.5, 2000)),
    "H100": Gpu(gigabytes=(80,), capability=(9, 0), peaks=Peaks(989, 67, 3350)),
    "H200": Gpu(gigabytes=(141,), capability=(9, 0), peaks=Peaks(989, 67, 4800)),
}
_OVER_ROOFLINE = 1.45  # usual: 1.3 to 1.6
_LAUNCH_SECONDS = 5e-6  # of the host, for a kernel
_CPU_TFLOPS = 0.01  # of one thread in float32; small models reach less
_CONTEXT = 1.0e9  # bytes that CUDA itself takes
_SLACK = 1.1  # the allocator's


def fits(step: StepMemory, gigabytes: float) -> bool:
    """Whether a GPU of so much memory holds a step, CUDA and its allocator included."""
    return step.total * _SLACK + _CONTEXT <= gigabytes * 1e9


def gpu_of(name: str) -> Gpu | None:
    """The kind of GPU that a device's name says; None if it is unknown."""
    return next((gpu for part, gpu in GPUS.items() if part in name), None)


def cpu_rate(threads: int) -> tuple[float, str]:
    """10^12 operations a second of a CPU, and what the number rests on."""
    about = f"{threads} CPU threads, {_CPU_TFLOPS * 1000:g} GFLOP/s each"
    return _CPU_TFLOPS * threads, about
