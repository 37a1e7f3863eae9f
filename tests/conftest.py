"""A tiny random LLaVA in its authors' layout, and pairs of pictures and answers to train it on."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from jaxtyping import install_import_hook

# The models of the tests are so small that threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same generated examples in every run, however loaded the machine is. The option
# `--hypothesis-profile=default` of pytest searches with others.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

# Shapes in signatures are checked while tests run; whoever imports these modules later gets that.
install_import_hook(
    ["hadpo.vlm", "hadpo.backbones", "hadpo.batch", "hadpo.loss", "hadpo.trainer.objective"],
    "beartype.beartype",
)

BROWSER_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SENTENCES = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "USER: Describe this image in detail. ASSISTANT: There is a red cup at the top left.",
    "Is there a dog in the image? Yes, there is. No, there is no dog in the image.",
    "A brown dog sits near 2 blue chairs; the sky is grey and the mood is calm.",
]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recordings of the original code; the test is skipped where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("HADPO_SHARED") or default)
    if not folder.is_dir():
        pytest.skip(f"no recordings of the originals: {folder} is absent (set HADPO_SHARED)")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window; the test is skipped if there is none.

    It ends with the module: until then Playwright's event loop counts as running in this thread,
    where neither a second browser nor `asyncio.run` could start.
    """
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install -e '.[e2e]'"
    )
    path = os.environ.get("HADPO_CHROMIUM") or shutil.which("chromium")
    path = path or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no browser: apt-get install chromium, or set HADPO_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(BROWSER_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a judge's server on loopback (tests/chat/server.py) and points the environment at it.

    The key is `serve.key`: it must never be found in a file.
    """
    from tests.chat.server import JudgeServer

    started = []

    def start(behave: Callable[..., Any], **options: Any) -> JudgeServer:
        server = JudgeServer(behave, **options)
        started.append(server)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", start.key)
        return server

    start.key = "sk-never-to-be-written"
    yield start
    for server in started:
        server.close()


@pytest.fixture
def hadpo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """`hadpo("list", HADPO_RUNS=...)`: what `python -m hadpo list` prints, and how it ends.

    In this process: one of its own would first import for seconds; test_cli.py starts those.
    """
    import logging
    import subprocess
    import sys

    from hadpo import cli

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        words = ["hadpo", *map(str, arguments)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", words)
            patch.setattr(logging.root, "handlers", [])  # warnings go to stderr, as in a process
            for name, value in environment.items():
                patch.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as end:
                cli.main()
        return subprocess.CompletedProcess(words, end.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def own_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, str], Path]]:
    """Adds modules to a folder of one's own plugins: `own_plugins("backbones", "own", text)`."""
    import sys

    from hadpo import plugins

    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.setenv("HADPO_PLUGINS", str(folder))
    added = {}

    def add(package: str, name: str, text: str) -> Path:
        path = folder / package / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        added[f"hadpo.{package}.{name}"] = f"hadpo.{package}"
        return path

    yield add
    monkeypatch.undo()
    for module, package in added.items():
        sys.modules.pop(module, None)
        plugins.available(package)  # forgets the folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`llava-tiny` and `clip-tiny`: random weights, real formats, a trained tokenizer."""
    import sentencepiece
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    llava, clip = folder / "llava-tiny", folder / "clip-tiny"
    llava.mkdir()
    clip.mkdir()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES * 3),
        model_prefix=str(llava / "tokenizer"),
        vocab_size=360,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    (llava / "tokenizer.vocab").unlink()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": 8,
    }
    config = {
        "model_type": "llava",
        "vocab_size": 360,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
        "mm_hidden_size": 16,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
    }
    (llava / "config.json").write_text(json.dumps(config))
    (clip / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 0.1)

    weights = {"model.embed_tokens.weight": draw(360, 32), "lm_head.weight": draw(360, 32)}
    weights["model.norm.weight"] = 1 + draw(32)
    for i in range(2):
        start = f"model.layers.{i}."
        for name in "qkvo":
            weights[f"{start}self_attn.{name}_proj.weight"] = draw(32, 32)
        weights[f"{start}mlp.gate_proj.weight"] = draw(48, 32)
        weights[f"{start}mlp.up_proj.weight"] = draw(48, 32)
        weights[f"{start}mlp.down_proj.weight"] = draw(32, 48)
        weights[f"{start}input_layernorm.weight"] = 1 + draw(32)
        weights[f"{start}post_attention_layernorm.weight"] = 1 + draw(32)
        weights[f"{start}self_attn.rotary_emb.inv_freq"] = torch.zeros(4)  # files of 2023 have it
    for i, width in ((0, 16), (2, 32)):
        weights[f"model.mm_projector.{i}.weight"] = draw(32, width)
        weights[f"model.mm_projector.{i}.bias"] = draw(32)
    weights["model.vision_tower.vision_tower.vision_model.post_layernorm.bias"] = draw(16)
    save_file(weights, llava / "model.safetensors")

    start = "vision_model."
    tower = {
        f"{start}embeddings.class_embedding": draw(16),
        f"{start}embeddings.patch_embedding.weight": draw(16, 3, 14, 14),
        f"{start}embeddings.position_embedding.weight": draw(5, 16),
        f"{start}embeddings.position_ids": torch.arange(5)[None],
        "logit_scale": torch.tensor(2.6),
        "text_model.final_layer_norm.bias": draw(8),
        "visual_projection.weight": draw(8, 16),
        "text_projection.weight": draw(8, 8),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        tower |= {f"{start}{name}.weight": 1 + draw(16), f"{start}{name}.bias": draw(16)}
    for i in range(3):
        layer = f"{start}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tower[f"{layer}self_attn.{name}.weight"] = draw(16, 16)
            tower[f"{layer}self_attn.{name}.bias"] = draw(16)
        for name, rows, columns in (("fc1", 24, 16), ("fc2", 16, 24)):
            tower[f"{layer}mlp.{name}.weight"] = draw(rows, columns)
            tower[f"{layer}mlp.{name}.bias"] = draw(rows)
        for name in ("layer_norm1", "layer_norm2"):
            tower |= {f"{layer}{name}.weight": 1 + draw(16), f"{layer}{name}.bias": draw(16)}
    torch.save(tower, clip / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="session")
def tiny_files(tiny_folder: Path) -> dict[str, Path]:
    """The parts that `backbones.load("llava/mini", ...)` wants."""
    return {"language_model": tiny_folder / "llava-tiny", "vision": tiny_folder / "clip-tiny"}


@pytest.fixture
def tiny_llava(tiny_files: dict[str, Path]) -> Callable:
    """Loads a fresh tiny LLaVA on the CPU; float64 makes the whole model float64."""
    import torch

    from hadpo import backbones

    def load(dtype: str = "float32"):
        first = "float32" if dtype == "float64" else dtype
        backbone = backbones.load("llava/mini", tiny_files, dtype=first, device="cpu")
        return backbone.to(torch.float64) if dtype == "float64" else backbone

    return load


@pytest.fixture
def float64_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm in the numbers of its input; transformers' own rounds to float32 inside."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (hidden * scale)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory) -> list:
    """Ten pairs over three pictures, both kinds, answers of many lengths."""
    import numpy
    from PIL import Image

    from hadpo.records import Pair

    random = numpy.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate([(40, 30), (28, 28), (21, 50)]):
        values = random.integers(0, 256, (size[1], size[0], 3), numpy.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")
    words = (SENTENCES[2] + " " + SENTENCES[4]).split()
    return [
        Pair(
            pair_id=f"pair-{k}",
            image_id=str(k % 3),
            image=str(folder / f"{k % 3}.png"),
            instruction="Is there a dog in the image?"
            if k % 2
            else "Describe this image in detail.",
            chosen=" ".join(words[: 2 + k]),
            rejected=" ".join(words[-3 - k % 4 :]),
            kind="pope" if k % 2 else "description",
            source="test",
        )
        for k in range(10)
    ]


@pytest.fixture
def tiny_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_files: dict[str, Path],
    tiny_pairs: list,
) -> Callable[..., tuple[str, Path]]:
    """A recipe of two stages on the tiny LLaVA, `prepare` of run "a" done; train settings vary."""
    import yaml

    from hadpo import runs
    from hadpo.records import write_jsonl

    monkeypatch.setenv("HADPO_RUNS", str(tmp_path / "runs"))

    def make(name: str = "a", **train: Any) -> tuple[str, Path]:
        settings = {"learning_rate": 1e-3, "batch_pairs": 4, "micro_batch_pairs": 2, "lora_rank": 4}
        settings |= {"max_length": 512, "steps": 5, "checkpoint_every": 2} | train
        files = {part: str(path) for part, path in tiny_files.items()}
        recipe = {"title": "tiny", "stages": ["prepare", "train"], "train": settings}
        recipe["model"] = {"backbone": "llava/mini", "files": files, "device": "cpu"}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(recipe))
        run = runs.open_run("prepare", str(path), name, {})
        write_jsonl(run.path("pairs.jsonl"), tiny_pairs[:8])
        write_jsonl(run.path("held_out.jsonl"), tiny_pairs[8:])
        run.finish()
        return str(path), run.folder.parent

    return make
