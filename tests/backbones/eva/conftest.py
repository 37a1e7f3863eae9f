"""The recordings of MiniGPT-4 and InstructBLIP, as backbones that read the authors' files."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

CASES = {  # recorded backbone -> name, and which file of the recording is which part
    "minigpt4_llama2": (
        "minigpt4/llama2",
        {"language_model": "llama", "vision": "eva_vit_g", "connector": "pretrained_minigpt4"},
    ),
    "minigpt4_vicuna0": (
        "minigpt4/vicuna0",
        {
            "language_model": "llama",
            "vision": "eva_vit_g",
            "connector": "pretrained_minigpt4",
            "qformer": "blip2_pretrained",
        },
    ),
    "instructblip_vicuna": (
        "instructblip/vicuna7b",
        {"language_model": "llama", "vision": "eva_vit_g", "qformer": "instruct_blip"},
    ),
}


class Recording:
    """What the authors' code computed, and our backbone from the same files."""

    def __init__(self, folder, copy, bert):
        from safetensors.torch import load_file

        self.folder = folder
        self.meta = json.loads((folder / "meta.json").read_text())
        self.case = self.meta["backbone"]
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.changed = load_file(folder / "policy_lm_changed.safetensors")
        self.texts = json.loads((folder / "text_cases.json").read_text())
        self.tolerance = self.meta["tolerances"]
        self.name, self.files = links(folder, copy, self.meta)
        if self.name.startswith("instructblip"):
            self.files["bert"] = bert

    def load(self, **changed):
        from hadpo import backbones

        files = {part: path for part, path in self.files.items() if part not in changed}
        files |= changed
        return backbones.load(self.name, files, dtype="float32", device="cpu")

    def pairs(self):
        """The recorded texts, as pairs."""
        from hadpo.records import Pair

        texts = self.texts if isinstance(self.texts, list) else self.texts["train_side"]
        rows = [[t for t in texts if t["side"] == side] for side in ("chosen", "rejected")]
        made = []
        for i, (chosen, rejected) in enumerate(zip(*rows, strict=True)):
            assert chosen["prompt"] == rejected["prompt"]
            made.append(
                Pair(
                    pair_id=str(i),
                    image_id=str(i),
                    image=str(i),
                    instruction=self.question(chosen["prompt"]),
                    chosen=chosen["answer"],
                    rejected=rejected["answer"],
                    kind="pope",
                    source="recording",
                )
            )
        assert made
        return made

    def question(self, prompt):
        """The instruction inside a recorded prompt."""
        template = self.meta["configs"].get("minigpt4", {}).get("prompt_template", "{}")
        start, _, end = template.partition("{}")
        inner = prompt.removeprefix(start).removesuffix(end)
        return inner.removeprefix("<Img><ImageHere></Img> ")

    def measure(self, backbone, *, quick=False):
        """Largest difference of every recorded quantity; quick: without log-probs and loss."""
        import torch

        from hadpo import batch, loss

        outputs, most = self.outputs, {}

        def note(name, found, expected):
            assert found.shape == expected.shape, name
            most[name] = max(most.get(name, 0.0), float((found - expected).abs().max()))

        examples = [batch.tokenize(backbone, pair, max_length=4096) for pair in self.pairs()]
        with torch.no_grad():
            features = backbone.features(self.inputs["pixel_values"])
            tokens = backbone.connect(features, [e.instruction for e in examples])
            note("vision_features", features, outputs["vision_features"])
            note("image_tokens", tokens, outputs["image_tokens"])
            for i, example in enumerate(examples):
                ids = torch.tensor([[*example.prefix, *example.chosen]])
                n = ids.shape[1]
                mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
                embeds = backbone.embed(ids, tokens[i : i + 1])
                hidden = backbone.hidden_states(embeds, mask, torch.arange(n)[None])
                logits = hidden[0] @ backbone.lm_head_weight.T
                expected = outputs["ref_logits_chosen"][i, :n, : logits.shape[1]]
                note("logits", logits, expected)
            if quick:
                return most
            packed = batch.pack(examples)
            embeds = batch.embed(backbone, packed, self.inputs["pixel_values"])
            reference = batch.token_table(backbone, packed, embeds)
            weights = dict(backbone.language_model.named_parameters())
            kept = {name: weights[name].clone() for name in self.changed}
            for name, value in self.changed.items():
                weights[name].copy_(value)
            policy = batch.token_table(backbone, packed, embeds)
            for name, value in kept.items():
                weights[name].copy_(value)
        for side, table in (("ref", reference), ("policy", policy)):
            for k in range(2 * len(examples)):
                answer = k // len(examples)
                example = examples[k % len(examples)]
                size = len((example.chosen, example.rejected)[answer])
                row = outputs[f"{side}_per_token_logps"][k, len(example.prefix) - 1 :][:size]
                note("token_logps", table[answer, k % len(examples), :size], row)
        sums = {"ref": reference.sum(-1), "policy": policy.sum(-1)}
        for side, (chosen, rejected) in sums.items():
            note("sum_logps", chosen, outputs[f"{side}_chosen_logps"])
            note("sum_logps", rejected, outputs[f"{side}_rejected_logps"])
        preference = loss.preference_loss(*sums["policy"], *sums["ref"], beta=self.meta["beta"])
        note("dpo_loss", preference.losses, outputs["dpo_losses"])
        note("dpo_loss", preference.losses.mean(), outputs["dpo_loss"])
        return most


def links(folder, copy, meta):
    """Links to the recorded files, and sizes beside them; what each file is stands in meta.json."""
    name, starts = CASES[meta["backbone"]]
    sizes = sizes_of(meta["configs"])
    names = [place.removeprefix("checkpoint/") for place in meta["files"]]
    for one in names:
        (copy / one).symlink_to(folder / "checkpoint" / one)
    files = {}
    for part, start in starts.items():
        (found,) = [one for one in names if one.startswith(start)]
        files[part] = copy / found
        if part in sizes:
            files[part].with_suffix(".json").write_text(json.dumps(sizes[part]))
    return name, files


def sizes_of(configs):
    eye, reader = configs["vit"], configs["qformer"]
    sizes = {
        "vision": {
            "image_size": eye["img_size"],
            "patch_size": eye["patch_size"],
            "width": eye["embed_dim"],
            "depth": eye["depth"],
            "heads": eye["num_heads"],
            "mlp_width": int(eye["embed_dim"] * eye["mlp_ratio"]),
        }
    }
    if reader:
        sizes["qformer"] = {
            "queries": reader["query_length"],
            "width": reader["hidden_size"],
            "depth": reader["num_hidden_layers"],
            "heads": reader["num_attention_heads"],
            "mlp_width": reader["intermediate_size"],
            "cross_every": reader["cross_attention_freq"],
            "vocab_size": reader.get("vocab_size_after_[DEC]", reader["vocab_size"]),
            "positions": reader["max_position_embeddings"],
        }
    return sizes


@pytest.fixture(scope="session")
def restated():
    """`restated.py`; tests are no package, so the file is loaded by its path."""
    path = Path(__file__).with_name("restated.py")
    spec = importlib.util.spec_from_file_location("restated", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bert(shared):
    """A folder with a small vocab.txt of BERT."""
    return shared / "golden" / "tokenizers" / "bert_tiny"


class Recordings(dict):
    """Recordings by backbone and folder; a backbone alone stands for the first of its folders."""

    def __missing__(self, backbone):
        return next(self[name] for name in sorted(self) if name.startswith(f"{backbone}/"))


@pytest.fixture(scope="session")
def recordings(shared, bert, tmp_path_factory):
    """Every recording of these families, found by listing."""
    found = Recordings()
    for path in sorted((shared / "golden").glob("*/*/meta.json")):
        case = json.loads(path.read_text()).get("backbone")
        if case in CASES:
            copy = tmp_path_factory.mktemp(case)
            found[f"{case}/{path.parent.name}"] = Recording(path.parent, copy, bert)
    assert {name.partition("/")[0] for name in found} == set(CASES)
    return found


@pytest.fixture
def writable(recordings, tmp_path):
    """Copies of a recording's files, to be broken; gives back name and parts."""

    def copy(case):
        recording = recordings[case]
        files = {}
        for part, path in recording.files.items():
            target = tmp_path / path.name
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copy(path, target)
                beside = path.with_suffix(".json")
                if beside.is_file():
                    shutil.copy(beside, target.with_suffix(".json"))
            files[part] = target
        return recording.name, files

    return copy


@pytest.fixture
def make(tmp_path, tiny_files, restated):
    """Writes a tiny random checkpoint in the authors' layout; gives its parts and all weights."""
    import torch
    from safetensors.torch import save_file

    def write(name, *, small=False, extra=None, drop=()):
        is_instructblip = name.startswith("instructblip")
        has_qformer = is_instructblip or "vicuna0" in name
        width, features = restated.LLAMA["hidden_size"], restated.EVA["width"]
        llama = tmp_path / "llama"
        llama.mkdir()
        shutil.copy(tiny_files["language_model"] / "tokenizer.model", llama)
        (llama / "config.json").write_text(json.dumps(restated.LLAMA))
        files, all_weights = {"language_model": llama}, {}

        def save(part, path, shapes, seed):
            weights = restated.draw(shapes, small=small, seed=seed) | (extra or {}).get(part, {})
            weights = {key: value for key, value in weights.items() if key not in drop}
            all_weights.update(weights)
            if path.suffix == ".pth":
                torch.save({"model": weights} if part != "vision" else weights, path)
                files[part] = path
            else:
                save_file(weights, path)

        shapes = restated.llama_shapes(restated.LLAMA)
        save("language_model", llama / "model.safetensors", shapes, 1)
        eva = restated.eva_shapes(restated.EVA, blocks_beyond=1)
        save("vision", tmp_path / "eva_vit_g.pth", eva, 2)
        (tmp_path / "eva_vit_g.json").write_text(json.dumps(restated.EVA))
        projection = restated.linear("llama_proj", width, 4 * features)
        if has_qformer:
            sizes = restated.QFORMER
            shapes = restated.qformer_shapes(sizes, features=features, reads_text=is_instructblip)
            if is_instructblip:
                shapes |= restated.linear("llm_proj", width, sizes["width"])
                words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"?.,!'"]
                letters = "abcdefghijklmnopqrstuvwxyz"
                words += [*letters, *(f"##{c}" for c in letters), "is", "there", "dog", "image"]
                (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
                sizes = sizes | {"vocab_size": len(words) + 1}
                rows = (len(words) + 1, sizes["width"])
                shapes["Qformer.bert.embeddings.word_embeddings.weight"] = rows
                files["bert"] = tmp_path
            else:
                projection = restated.linear("llama_proj", width, sizes["width"])
            save("qformer", tmp_path / "qformer.pth", shapes, 3)
            (tmp_path / "qformer.json").write_text(json.dumps(sizes))
        if not is_instructblip:
            save("connector", tmp_path / "pretrained_minigpt4.pth", projection, 4)
        return files, all_weights

    return write
