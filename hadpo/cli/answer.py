"""A model that answers: questions about a folder of images (`answer`), or on a page (`page`)."""

import csv
import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hadpo import config, runs
from hadpo.places import shorten
from hadpo.plugins import choices
from hadpo.records import (
    Answer,
    BadInput,
    Question,
    append_jsonl,
    file_hash,
    read_json,
    resume_jsonl,
    value_hash,
    write_json,
)
from hadpo.text import csv_cell

commands = typer.Typer()
_TABLE, _ASKED = "answers.csv", "answers.asked.json"
_COLUMNS = ("question_id", "image", "question", "answer", "tokens", "finish", "model")


@commands.command()
def answer(
    images: Annotated[Path, typer.Option(help="folder of the images")],
    questions: Annotated[Path, typer.Option(help=".txt, .json, .jsonl or .csv; see README")],
    recipe: Annotated[str, typer.Option(help="recipe whose model answers")] = "",
    run: Annotated[str, typer.Option(help="run whose merged model answers")] = "",
    out: Annotated[Path, typer.Option(help="folder for answers.jsonl and answers.csv")] = Path(
        "answers"
    ),
    preset: Annotated[str, typer.Option(help="greedy, lrv-v1, lrv-v2 or minigpt4")] = "greedy",
    prompt: Annotated[Literal["evaluate", "train"], typer.Option(help="which")] = "evaluate",
    batch: Annotated[int, typer.Option(help="questions at a time")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="of one answer; 0: the preset's")] = 0,
    seed: Annotated[int, typer.Option(help="of sampling")] = 0,
) -> None:
    """Answer questions about images in batches, to JSON Lines and CSV; a killed start goes on.

    Example: hadpo answer --recipe mini/llava --images photos --questions asked.txt --out said
    """
    from hadpo.data import Report, asked
    from hadpo.generation import PRESETS

    if preset not in PRESETS:
        raise BadInput(f"--preset: no preset {preset!r}; {choices(preset, PRESETS)}")
    resolved, files = _model(recipe, run)
    decoding = dataclasses.replace(PRESETS[preset], seed=seed)
    if max_new_tokens:
        decoding = dataclasses.replace(decoding, max_new_tokens=max_new_tokens)
    wanted = asked.read(questions, images, Report())
    known = {"RUN": str(config.runs_folder() / run)} if run else {}
    facts = {
        "recipe": resolved.name,
        "run": run,
        "files": {part: shorten(str(place), known) for part, place in files.items()},
        "prompt": prompt,
        "decoding": dataclasses.asdict(decoding),
    }
    done = _open(out, facts)
    by_id = {question.question_id: question for question in wanted}
    _check_same(out / _ASKED, by_id, done)
    left = [question for key, question in by_id.items() if key not in done]
    how = {"prompt": prompt, "batch_questions": batch, "model": run or resolved.name}
    found = _answers(resolved, files, left, decoding, how) if left else ()
    with (out / _TABLE).open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(_COLUMNS)
        writer.writerows(_row(by_id[key], one) for key, one in done.items() if key in by_id)
        for one in append_jsonl(out / "answers.jsonl", found):
            writer.writerow(_row(by_id[one.question_id], one))
            table.flush()
    typer.echo(f"{len(left)} answered now, {len(by_id) - len(left)} before; {out / _TABLE}")


def _model(recipe: str, run: str) -> tuple[config.Recipe, dict[str, Any]]:
    """The recipe, and the files of its base or of a run's merged model."""
    from hadpo import backbones

    if bool(recipe) == bool(run):
        raise BadInput("name one model: --recipe for a base, or --run for a run's merged model")
    if recipe:
        found = config.load_recipe(recipe)
        return found, backbones.files_of(found, config.resolve_path)
    return runs.merged_model(config.runs_folder() / run)


def _open(out: Path, facts: dict[str, Any]) -> dict[str, Answer]:
    """What was answered before, by the same model in the same way."""
    mark, path, table = (out / name for name in ("answers.meta.json", "answers.jsonl", _TABLE))
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out: {out} is a file, expected a folder; choose another --out")
    if folders := [place for place in (mark, path, table) if place.is_dir()]:
        raise BadInput(f"--out: {folders[0]} is a folder, expected a file; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if mark.is_file():
        old = read_json(mark, dict, expected="delete it to start anew, or choose another --out")
        if differ := [key for key in facts if old.get(key) != facts[key]]:
            raise BadInput(
                f"{mark}: answers of another {' and '.join(differ)} lie there; choose another --out"
            )
    write_json(mark, facts)
    answers = list(resume_jsonl(path, Answer))
    if twice := [key for key, n in Counter(a.question_id for a in answers).items() if n > 1]:
        raise BadInput(f"{path}: two answers to {twice[0]!r}; keep one, or choose another --out")
    return {answer.question_id: answer for answer in answers}


def _check_same(path: Path, by_id: dict[str, Question], done: dict[str, Answer]) -> None:
    """Refuse answers to other questions, or about other pictures, that have the same ids."""
    old = read_json(path, dict, expected="choose another --out") if path.is_file() else {}
    images = {one.image for one in by_id.values() if Path(one.image).is_file()}
    pictures = {image: file_hash(Path(image)) for image in images}
    now = {
        key: value_hash(f"{one.text}\0{pictures[one.image]}")
        for key, one in by_id.items()
        if one.image in pictures
    }
    other = [key for key in done if key in now and old.get(key, now[key]) != now[key]]
    if other:
        what = (
            f"question_id {', '.join(other[:5])} was answered for another question or another image"
        )
        raise BadInput(f"{path}: {what}; choose another --out")
    write_json(path, old | now)


def _answers(
    recipe: config.Recipe, files: dict[str, Any], asked: list[Question], decoding: Any, how: Any
) -> Iterator[Answer]:
    """Answers as they come; the model is loaded when the first is asked for."""
    from hadpo import backbones
    from hadpo.generation import generate

    yield from generate(backbones.load_for(recipe, files), asked, decoding, **how)


def _row(asked: Question, one: Answer) -> tuple[Any, ...]:
    """A line of the table, in the order of its columns."""
    known = (asked.question_id, asked.image, asked.text, one.text, one.tokens)
    return tuple(map(csv_cell, (*known, one.finish, one.model)))


@commands.command()
def page(
    recipe: Annotated[str, typer.Option(help="whose model is shown")] = "mini/llava",
    adapter: Annotated[
        str, typer.Option(help="its adapter: a folder, or a run's name; mini/llava brings one")
    ] = "",
    against: Annotated[
        str, typer.Option(help="a recipe whose model stands beside it; default: without adapter")
    ] = "",
    run: Annotated[
        str, typer.Option(help="a run whose pictures stand in the gallery, judged by its evidence")
    ] = "",
    judge: Annotated[
        str, typer.Option(help="who judges sentences about the gallery: oracle, llm or replay")
    ] = "oracle",
    judge_model: Annotated[
        str, typer.Option(help="of judge llm: a model of the server at OPENAI_BASE_URL")
    ] = "",
    judge_max_cost_usd: Annotated[
        float, typer.Option(help="all visitors together, by the prices; 0: 500 requests", min=0)
    ] = 0.0,
    judge_input_price: Annotated[
        float, typer.Option(help="dollars per million tokens of its prompts", min=0)
    ] = 0.0,
    judge_output_price: Annotated[
        float, typer.Option(help="dollars per million tokens of its replies", min=0)
    ] = 0.0,
    port: Annotated[int, typer.Option(help="of 127.0.0.1; 0: a free one", min=0, max=65535)] = 7860,
) -> None:
    """Open a page on this machine where two models answer side by side.

    Example: hadpo page --recipe mini/llava --adapter mini-llava
    """
    from hadpo.page import serve

    typer.echo("loading ...")
    serve(
        recipe,
        tuned=adapter,
        against=against,
        run=run,
        judge=judge,
        judge_model=judge_model,
        limits={
            "max_cost_usd": judge_max_cost_usd,
            "input_price": judge_input_price,
            "output_price": judge_output_price,
        },
        port=port,
        when_ready=lambda address: typer.echo(f"the page: {address}   (Ctrl-C ends it)"),
    )
