"""The front door: a model by its name, asked, trained, saved and evaluated in a few lines.

The stages of a run do the same with records, manifests and resume; here nothing but an adapter is
written. `import hadpo` gives these names without importing torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from hadpo import adapter, backbones, benchmarks, config, plugins, runs
from hadpo.data import Report, Sources
from hadpo.generation import PRESETS, Decoding, generate
from hadpo.records import Answer, BadInput, Metric, Pair, Question, read_jsonl
from hadpo.trainer import StepMetrics, steps
from hadpo.vlm import Backbone


class Model:
    """A loaded backbone, with an adapter once it was trained or given one."""

    def __init__(self, backbone: Backbone, name: str, recipe: str) -> None:
        self.backbone = backbone
        self.name = name  # as it was asked for; answers carry it
        self.recipe = recipe  # its settings hold unless others are given

    def __repr__(self) -> str:
        tuned = ", with adapter" if adapter.is_attached(self.backbone) else ""
        return f"Model({self.name!r}, {self.backbone.name}, {self.backbone.dtype}{tuned})"

    def answer(
        self,
        image: str | Path,
        question: str,
        *,
        max_new_tokens: int = 512,
        decoding: str | Decoding = "greedy",
        prompt: Literal["evaluate", "train"] = "evaluate",
    ) -> str:
        """The model's answer to a question about one picture.

        Args:
            image: file of the picture.
            question: plain words; the model's own prompt is put around them.
            max_new_tokens: at most so many tokens are generated.
            decoding: a preset (greedy, lrv-v1, lrv-v2, minigpt4), or settings of one's own.
            prompt: which of the backbone's two prompts.

        Raises:
            BadInput: no such picture, no such preset, or a picture that cannot be read.
        """
        names = {"question_id": "question", "benchmark": "", "split": "", "image_id": "image"}
        asked = Question(**names, image=str(image), text=question)
        how: Any = {"max_new_tokens": max_new_tokens, "decoding": decoding, "prompt": prompt}
        [answer] = self.answers([asked], **how)
        return answer.text

    def answers(
        self,
        questions: Iterable[Question],
        *,
        max_new_tokens: int = 512,
        decoding: str | Decoding = "greedy",
        prompt: Literal["evaluate", "train"] = "evaluate",
    ) -> list[Answer]:
        """Answers to many questions; those about one picture share its encoding and prompt.

        Raises:
            BadInput: as `answer`.
        """
        if isinstance(decoding, str):
            if decoding not in PRESETS:
                known = plugins.choices(decoding, PRESETS)
                raise BadInput(f"no preset {decoding!r}; {known}")
            decoding = dataclasses.replace(PRESETS[decoding], max_new_tokens=max_new_tokens)
        return list(generate(self.backbone, questions, decoding, prompt=prompt, model=self.name))

    def load_adapter(self, folder: str | Path) -> None:
        """Attach a trained adapter: a peft folder, ours or a published one of this family.

        Raises:
            BadInput: no adapter there, or one of another model.
        """
        adapter.load(self.backbone, Path(folder))

    def save_adapter(self, folder: str | Path) -> Path:
        """Write what was trained, as peft has it; gives the folder back.

        Raises:
            BadInput: the model has no adapter.
        """
        if not adapter.is_attached(self.backbone):
            raise BadInput(f"{self.name} has no adapter to save; train it, or load one")
        adapter.save(self.backbone, Path(folder))
        return Path(folder)


def load(
    name: str | Path,
    *,
    dtype: str = "",
    device: str = "",
    quantization: str = "",
    kernels: str = "",
) -> Model:
    """The model of that name, frozen and ready to answer.

    Names are looked up in this order: an existing folder (a run: its merged model; one of
    transformers), a recipe (its base model), a backbone (with the files of the recipe that uses
    it), a hub id. Nothing is downloaded before all but the last were tried.

    Args:
        name: for example "mini/llava", "llava-1.5-7b", "llava/1.5-7b", "runs/mini-llava", or
            "Qwen/Qwen2.5-VL-3B-Instruct".
        dtype: "float32", "bfloat16" or "float16"; "": as the recipe says.
        device: "cpu" or "cuda"; "": as the recipe says.
        quantization: "none", "nf4", "fp4" or "int8"; "": as the recipe says.
        kernels: "plain" or "fused"; "": as the recipe says.

    Raises:
        BadInput: no such model, a name that means two of them, or files that are missing.
    """
    text = str(name)
    folder = Path(name).expanduser()
    meanings = {
        "a folder": folder.is_dir(),
        "a recipe": text in config.recipe_names(),
        "a backbone": text in _backbone_names(),
    }
    found = [meaning for meaning, is_one in meanings.items() if is_one]
    chosen = {"dtype": dtype, "device": device, "quantization": quantization, "kernels": kernels}
    if found == ["a folder"] and (folder / "config.json").is_file():
        return _whole(folder, text, **chosen)
    if not found:
        nearest = plugins.choices(text, [*config.recipe_names(), *_backbone_names()])
        if config.HUB_ID.fullmatch(text) and not nearest.startswith("did you mean"):
            return _whole(text, text, **chosen)
        raise BadInput(f"no folder, recipe or backbone {text!r}; {nearest}")
    if len(found) > 1:
        raise BadInput(f"{text!r} is {' and '.join(found)}; write ./{text} for the folder")
    recipe, files = runs.merged_model(folder) if found == ["a folder"] else _of_recipe(text)
    assert recipe.model is not None  # `files_of` refused a recipe without one
    model = recipe.model
    backbone = backbones.load(
        model.backbone,
        files,
        **{name: value or getattr(model, name) for name, value in chosen.items()},
        template=model.template,
        exif=model.exif,
    )
    return Model(backbone, text, recipe.name)


def _whole(place: str | Path, name: str, **given: str) -> Model:
    """Any image-text-to-text model of transformers, with the settings of the recipe hf."""
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value}
    return Model(backbones.load("hf/auto", {"language_model": place}, **chosen), name, "hf")


def _backbone_names() -> list[str]:
    package = "hadpo.backbones"
    families = {family: plugins.load(package, family) for family in plugins.available(package)}
    return [f"{f}/{variant}" for f, module in families.items() for variant in module.VARIANTS]


def _of_recipe(name: str) -> tuple[config.Recipe, dict[str, Any]]:
    """A recipe and its files; for a backbone, the first recipe that uses it."""
    names = config.recipe_names()
    recipes = [config.load_recipe(each) for each in ([name] if name in names else names)]
    if name not in names:
        recipes = [r for r in recipes if r.model is not None and r.model.backbone == name]
    if not recipes:
        raise BadInput(f"no recipe says where the files of backbone {name!r} lie; write one")
    return recipes[0], backbones.files_of(recipes[0], config.resolve_path)


def read_pairs(path: str | Path) -> list[Pair]:
    """Preference pairs from a JSON Lines file of records.

    Raises:
        BadInput: lists every line and field that is wrong.
    """
    return list(read_jsonl(path, Pair))


def train(model: Model, pairs: Iterable[Pair], **settings: Any) -> Iterator[StepMetrics]:
    """Train an adapter on pairs, update by update (HA-DPO: DPO, Rafailov et al. 2023, equation 7).

    Args:
        model: gets an adapter if it has none; it answers with it afterwards.
        pairs: chosen and rejected answers about pictures.
        settings: of the section train (`hadpo settings train` lists them), for example `steps`,
            `beta`, `learning_rate`; the rest is as the model's recipe says. Pairs of one kind only
            are taken as they come, whatever mixture of kinds the recipe has.

    Yields:
        What each update was like: loss, rewards, margins (nats), named as in TRL.

    Raises:
        BadInput: an unknown setting or value, or pairs that do not fit.
        FloatingPointError: the loss is not a number.
    """
    pairs = list(pairs)
    if len({pair.kind for pair in pairs}) == 1:
        settings = {"description_share": -1} | settings
    chosen = config.load_recipe(model.recipe, settings, stage="train").train
    return steps(model.backbone, pairs, chosen)


def evaluate(
    model: Model,
    benchmark: str,
    *,
    questions: str | Path,
    images: str | Path,
    **settings: Any,
) -> list[Metric]:
    """The metrics of a benchmark that needs no judge, with 95 % intervals over pictures.

    Args:
        model: answers, greedily unless the settings say otherwise.
        benchmark: for example "pope".
        questions: the benchmark's official file or folder.
        images: folder of the pictures.
        settings: the benchmark's own (`hadpo settings evaluate` lists them).

    Raises:
        BadInput: no such benchmark, one that a judge must rule on, or files that do not fit.
    """
    declared = benchmarks.Benchmark.named(benchmark)
    if declared.RUBRICS:
        raise BadInput(
            f"{benchmark} needs a judge and evidence about each picture; run a recipe with "
            f"-p benchmark_names={benchmark}"
        )
    recipe = config.load_recipe(model.recipe, settings, stage="evaluate")
    chosen = recipe.evaluate
    places = {benchmark: str(questions), "coco": str(images)}
    sources = Sources(
        data=dataclasses.replace(recipe.data, **places),
        resolve=Path,
        note=lambda path: path,  # nothing is written, so nothing is hashed
        report=Report(),
    )
    asked = plugins.load("hadpo.benchmarks", benchmark).questions(sources)
    decoding = benchmarks.decoding_of(declared, chosen)
    said = model.answers(asked, decoding=decoding)
    draws: Any = {"samples": chosen.bootstrap_samples, "seed": chosen.evaluate_seed}
    return benchmarks.score(benchmark, said, asked, settings=chosen, **draws)
