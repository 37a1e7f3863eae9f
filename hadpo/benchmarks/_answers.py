"""The answers of every model: stored ones, and new ones by one process or by several."""

import gc
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hadpo import backbones, config, plugins
from hadpo.benchmarks._tally import Benchmark
from hadpo.chat import Bill
from hadpo.records import (
    Answer,
    BadInput,
    Question,
    drop_torn_end,
    input_hashes,
    read_jsonl,
    refuse_changed,
    to_json,
    write_json,
)
from hadpo.runs import check_weights, read_manifest
from hadpo.text import first_segments, segments

if TYPE_CHECKING:
    from hadpo.generation import Decoding
    from hadpo.runs import Run

log = logging.getLogger(__name__)

BASE, TUNED = "base", "merged"
CUT = "base_cut"  # the control: the base's own text, no longer than the tuned model's
ADAPTER, CONNECTOR, STEP = "adapter", "connector", "step-"
SERVER = "server"  # in the place of a model's files: its name on the server
Files = dict[str, str | Path]


def files_of(run: "Run", name: str) -> Files:
    """The files of one model: the recipe's, with the merged language model for all but the base.

    `step-<n>` is the base with what was trained up to update n (`train.keep_steps`), beside it.

    Raises:
        BadInput: no such model was trained and merged.
    """
    parts: Files = backbones.files_of(run.recipe, run.resolve)
    served = _served(run)
    if name in served:
        return {SERVER: served[name]}
    if name == config.SERVED or (run.recipe.model and not run.recipe.model.backbone):
        raise BadInput(
            f"evaluate.models: {name!r} is on no server: model.engine is server, and "
            "model.server_models names it"
        )
    if name == BASE:
        return parts
    if name.startswith(STEP):
        return parts | _step_files(run, name)
    folder = run.earlier("merge")
    controls = sorted(path.parent.name for path in folder.glob("controls/*/merged"))
    if name != TUNED and name not in controls:
        known = [BASE, TUNED, *controls]
        raise BadInput(
            f"evaluate.models: no model {name!r}; {plugins.choices(name, known)}; "
            "train.controls names the controls that are trained"
        )
    place = ("merged",) if name == TUNED else ("controls", name, "merged")
    manifest = read_manifest(folder)
    facts = manifest.facts if manifest else {}
    noted = facts.get(TUNED if name == TUNED else f"merged_{name}", {}).get("files", {})
    found = {**parts, **noted}
    # What was noted may have been moved with the run's folder.
    target = run.earlier("merge", *place)
    if (target / "config.json").is_file():
        found["language_model"] = target
    if (target / CONNECTOR).is_dir():
        found[CONNECTOR] = target / CONNECTOR
    check_weights(folder, [target, target / CONNECTOR])
    return found


def _served(run: "Run") -> dict[str, str]:
    """Models that a server answers for, with their names there."""
    model = run.recipe.model
    return config.named(model.server_models) if model and model.engine == "server" else {}


def _step_files(run: "Run", name: str) -> Files:
    """What was trained up to one update: its adapter, its connector, or both."""
    steps = run.earlier("train") / "steps"
    known = sorted((path.name for path in steps.glob(f"{STEP}*")), key=lambda n: (len(n), n))
    if name not in known:
        raise BadInput(
            f"evaluate.models: no model {name!r}; kept were {', '.join(known) or 'none'}; "
            "train.keep_steps keeps one at every checkpoint"
        )
    found = {part: steps / name / part for part in (ADAPTER, CONNECTOR)}
    return {part: path for part, path in found.items() if path.is_dir()}


def answers_of(
    run: "Run",
    benchmarks: dict[str, Benchmark],
    questions: Sequence[Question],
    files: dict[str, Files],
) -> list[Answer]:
    """All answers of all models, from samples.jsonl, or generated and appended to it."""
    path = run.path("samples.jsonl")
    stored = _stored(path)
    _note_inputs(run, files, path if stored else None)
    if any(SERVER in parts for parts in files.values()):  # before a local model works for hours
        _check_served(benchmarks, run.settings)
    ids = {question.question_id for question in questions}
    same = _same_questions(benchmarks, questions)
    open_ones = [question for question in questions if question.question_id not in same]
    found = [a for a in stored if a.model in files and a.question_id in ids]
    bill = Bill()  # of all models on servers together
    for model, parts in files.items():
        done = {a.question_id for a in found if a.model == model}
        if ids <= done:
            log.info("%s: all %d answers are there", model, len(ids))
            continue
        _write_decoding(run, benchmarks)
        with path.open("a", encoding="utf-8") as file:
            new = _ask(run, benchmarks, open_ones, parts, model=model, done=done, bill=bill)
            for answer in new:
                file.write(to_json(answer) + "\n")
                file.flush()
                found.append(answer)
            said = {a.question_id: a for a in found if a.model == model}
            for question in (q for q in questions if q.question_id in same.keys() - done):
                answer = replace(
                    said[same[question.question_id]],
                    question_id=question.question_id,
                    benchmark=question.benchmark,
                    split=question.split,
                )
                file.write(to_json(answer) + "\n")
                found.append(answer)
        shutil.rmtree(run.path("processes", model), ignore_errors=True)  # all of it is stored now
        gc.collect()  # one model at a time: a 7B model fills most of a GPU
    order = {name: place for place, name in enumerate(files)}
    return sorted(found, key=lambda answer: order[answer.model])


def _same_questions(
    benchmarks: dict[str, Benchmark], questions: Sequence[Question]
) -> dict[str, str]:
    """Question id -> the id of the same question of the benchmark that its own goes along with."""
    found: dict[str, str] = {}
    for name, benchmark in benchmarks.items():
        other = answered_as(benchmark, benchmarks).name
        open_ones = [q for q in questions if q.benchmark == other]
        known = {(q.image, q.text): q.question_id for q in open_ones}
        of_split = {(q.split, q.image, q.text): q.question_id for q in open_ones}
        for question in questions if other != name else ():
            place = question.image, question.text
            key = of_split.get((question.split, *place), known.get(place))
            if question.benchmark == name and key:
                found[question.question_id] = key
    return found


def answered_as(benchmark: Benchmark, benchmarks: dict[str, Benchmark]) -> Benchmark:
    """Whose decoding a benchmark's answers have: its own, or that of the same questions."""
    return benchmarks.get(benchmark.SAME_QUESTIONS_AS, benchmark)


def _note_inputs(run: "Run", files: dict[str, Files], answers: Path | None) -> None:
    """Hash what the numbers rest on; answers that other weights gave are refused."""
    noted = run.manifest.facts.get("inputs", {})
    places = [place for parts in files.values() for place in parts.values()]
    weights = input_hashes(places, below=run.folder.parent)
    if answers is not None:
        refuse_changed(noted, weights, where=answers)
    names = ("questions.jsonl", "evidence.jsonl", "vocabulary.json")
    records = input_hashes(
        [run.earlier("prepare", name) for name in names], below=run.folder.parent
    )
    run.note(inputs={**noted, **records, **weights})


def _stored(path: Path) -> list[Answer]:
    """Answers of an earlier start; a line that a killed writer tore is cut off the file.

    Two answers of one model to one question are refused.
    """
    drop_torn_end(path)
    found = list(read_jsonl(path, Answer)) if path.is_file() else []
    times = Counter((answer.model, answer.question_id) for answer in found)
    twice = [f"{model} to {question}" for (model, question), n in times.items() if n > 1]
    if twice:
        few = ", ".join(twice[:5]) + (" ..." if len(twice) > 5 else "")
        raise BadInput(
            f"{path}: {len(twice)} answers are there twice: {few}; expected one of each model to "
            "each question; delete the others, or the file"
        )
    return found


def _ask(
    run: "Run",
    benchmarks: dict[str, Benchmark],
    questions: Sequence[Question],
    parts: Files,
    *,
    model: str,
    done: set[str],
    bill: Bill,
) -> Iterable[Answer]:
    from hadpo.generation import REPLIES, Job, Part, Served, generate, generate_in_processes

    settings: Any = run.settings
    recipe = as_asked(run.recipe)
    asked = [
        Part(
            decoding=decoding_of(answered_as(benchmark, benchmarks), settings),
            questions=tuple(q for q in questions if q.benchmark == name),
        )
        for name, benchmark in benchmarks.items()
    ]
    options: dict[str, Any] = {
        "prompt": settings.prompt,
        "batch_questions": settings.batch_questions,
        "batch_memory_gib": settings.batch_memory_gib,
        "model": model,
        "exact": settings.exact,
    }
    if SERVER in parts:
        assert run.recipe.model is not None  # `files_of` refused a recipe without one
        served = Served(run.recipe.model, model, run.path(REPLIES), run.note, bill)
        for part in asked:
            yield from generate(served, part.questions, part.decoding, done=done, model=model)
        return
    learned = parts.get(ADAPTER)
    models = {part: place for part, place in parts.items() if part != ADAPTER}
    if found := backbones.overridden(models):
        run.note(overridden_generation_config=found)
    if settings.answer_processes != 1 and learned:
        raise BadInput(f"evaluate.models: {model} is not merged, so answer_processes must be 1")
    if settings.answer_processes != 1:
        job = Job(
            settings=asdict(recipe.model),  # pyright: ignore[reportArgumentType]
            files={part: str(place) for part, place in parts.items()},
            parts=tuple(asked),
            done=tuple(sorted(done)),
            **options,
        )
        folder = run.path("processes", model)
        yield from generate_in_processes(job, folder, settings.answer_processes)
        return
    backbone = backbones.load_for(recipe, models)
    if learned:
        from hadpo import adapter  # it needs torch; judging does not

        adapter.load(backbone, Path(learned))
        adapter.merge(backbone)
    for part in asked:
        yield from generate(backbone, part.questions, part.decoding, done=done, **options)


def _check_served(benchmarks: dict[str, Benchmark], settings: Any) -> None:
    """Refuse settings that no server is told."""
    from hadpo.generation import server

    if settings.prompt != "evaluate":
        raise BadInput("evaluate.prompt is 'train', but a server has a prompt of its own")
    for benchmark in benchmarks.values():
        server.check(decoding_of(answered_as(benchmark, benchmarks), settings))


def as_asked(recipe: config.Recipe) -> config.Recipe:
    """The recipe with the dtype and quantization that `evaluate` asks for, if it asks."""
    settings, model = recipe.evaluate, recipe.model
    assert model is not None  # `files_of` refused a recipe without one
    wanted = {"dtype": settings.answer_dtype, "quantization": settings.answer_quantization}
    changed = {name: value for name, value in wanted.items() if value != "model"}
    return replace(recipe, model=replace(model, **changed))  # pyright: ignore[reportArgumentType]


def decoding_of(benchmark: Benchmark, settings: Any) -> "Decoding":
    """How a benchmark's answers are generated: by the settings that begin with its name."""
    from hadpo.generation import Decoding  # it needs torch; scoring does not

    name = benchmark.name
    own = {
        "beams": getattr(settings, f"{name}_beams", 1),
        "max_new_tokens": getattr(settings, f"{name}_max_new_tokens", 512),
        "repetition_penalty": settings.repetition_penalty,
    }
    return Decoding(name=name, **own, **benchmark.decoding(settings))


def _write_decoding(run: "Run", benchmarks: dict[str, Benchmark]) -> None:
    """What every number rests on: prompt, decoding, reading of the answers, judge."""
    settings: Any = run.settings
    backbone = run.recipe.model.backbone  # pyright: ignore[reportOptionalMemberAccess]
    served = _served(run)
    prompts = backbones.prompts(backbone) if backbone else None
    prompt = getattr(prompts, settings.prompt).text if prompts else "the server's chat template"
    found: dict[str, Any] = {
        name: {
            "prompt": prompt,
            "prompt_name": settings.prompt,
            "decoding": asdict(decoding_of(answered_as(benchmark, benchmarks), settings)),
            "readings": benchmark.readings(settings) if benchmark.readings else benchmark.READINGS,
            "judge": settings.judge,
            **({"on a server": served} if served else {}),
        }
        for name, benchmark in benchmarks.items()
    }
    write_json(run.path("decoding.json"), found, ensure_ascii=False)
    run.note(decoding=found)


def cut(base: Iterable[Answer], tuned: Iterable[Answer], settings: Any) -> list[Answer]:
    """The base's descriptions, each cut to the sentence count of the tuned model's.

    The control for saying less: whatever this row gains over the base, it gains by length alone. A
    text that is cut was not generated as it stands: its `tokens` are 0, and no metric of it
    rests on how answers were generated.
    """
    how = settings.shr_segmentation
    length = {a.question_id: len(segments(a.text, how)) for a in tuned}
    found = []
    for answer in base:
        if answer.question_id not in length:
            continue
        text = first_segments(answer.text, length[answer.question_id], how)
        is_whole = text == answer.text.rstrip()
        tokens = answer.tokens if is_whole else 0
        finish = answer.finish if is_whole else "stop"
        found.append(replace(answer, model=CUT, text=text, tokens=tokens, finish=finish))
    return found
