"""`hadpo instructions ...`: instruction data generated, filtered, converted."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import typer

from hadpo import config
from hadpo.cli.results import AsJson
from hadpo.data import Report
from hadpo.records import BadInput

commands = typer.Typer(
    help="Instruction data: LRV's generated or filtered, Oxford HIC's converted.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Out = Annotated[Path, typer.Option(help="folder to write to")]
BadRecord = typer.Option(help="a broken record: error, or skip and count it")
OnBad = Annotated[Literal["error", "skip"], BadRecord]
ValShare = Annotated[float, typer.Option(help="share of the images kept from training")]
Seed = Annotated[int, typer.Option(help="draws the images of val, and what balances")]
Settings = TypeVar("Settings")


@commands.command()
def generate(
    visual_genome: Annotated[Path, typer.Argument(help="folder with image_data.json, VG_100K")],
    out: Out,
    model: Annotated[str, typer.Option(help="on the server at OPENAI_BASE_URL")],
    images: Annotated[int, typer.Option(help="the first so many; 0: all")] = 0,
    kinds: Annotated[str, typer.Option(help="of positive, absent, attribute")] = (
        "positive,absent,attribute"
    ),
    input_price: Annotated[float, typer.Option(help="dollars per million tokens")] = 0.0,
    output_price: Annotated[float, typer.Option(help="dollars per million tokens")] = 0.0,
    max_cost_usd: Annotated[float, typer.Option(help="0: no limit")] = 0.0,
    reply_format: Literal["json_schema", "json_object", "text"] = "json_schema",
    negative_share: Annotated[float, typer.Option(help="of what is kept; 0: as it comes")] = 0.5,
    val_share: ValShare = 0.0,
    seed: Seed = 42,
    dry_run: Annotated[bool, typer.Option(help="print what it may cost; ask nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Let a language model write instructions about images of Visual Genome, as LRV did.

    Example: hadpo instructions generate data/VG --model MODEL --out data/mine --images 100
    """
    from hadpo.chat import Cache, ChatModel, ChatSettings, cache_file
    from hadpo.data import visual_genome as vg
    from hadpo.instructions import generate as made
    from hadpo.instructions.lrv import FilterSettings, convert

    settings = ChatSettings(
        model=model,
        max_tokens=4000,  # twenty instructions
        reply_format=reply_format,
        input_price=input_price,
        output_price=output_price,
        max_cost_usd=max_cost_usd,
    )
    known = list(vg.read(visual_genome, report := Report()).values())
    report.finish()
    chosen = [evidence for evidence in known if evidence.regions][: images or None]
    names = config.names(kinds)
    chat = ChatModel(settings, Cache(None if dry_run else cache_file()))
    if dry_run:
        asked = made.requests(chosen, names, is_json=reply_format != "text")
        dollars = round(chat.estimate_usd(asked), 4)
        _show({"requests": len(asked), "usd_at_most": dollars}, as_json=as_json)
        return
    counts: Counter[str] = Counter()
    records = made.generate(chosen, chat, names, counts)
    filters = _checked(
        FilterSettings,
        max_answer_words=made.ANSWER_WORDS,
        negative_share=negative_share,
        val_share=val_share,
        seed=seed,
    )
    _show({**counts, **convert(records, out, filters, Report())}, as_json=as_json)


@commands.command("filter")
def filter_lrv(
    files: Annotated[list[Path], typer.Argument(help="filter_cap*.json or chart_release*.json")],
    images: Annotated[Path, typer.Option(help="folder of the images")],
    out: Out,
    negative_share: Annotated[float, typer.Option(help="0: as it comes")] = 0.0,
    max_answer_words: Annotated[int, typer.Option(help="0: no limit")] = 0,
    keep_coordinates: Annotated[bool, typer.Option(help="in questions and answers")] = False,
    val_share: ValShare = 0.0,
    seed: Seed = 42,
    on_bad: OnBad = "error",
    as_json: AsJson = False,
) -> None:
    """Filter LRV's files: coordinates, wording, length, duplicates, balance, split by image.

    Example: hadpo instructions filter filter_cap1.json --images image --out data/lrv
    """
    from itertools import chain

    from hadpo.data import lrv
    from hadpo.instructions.lrv import FilterSettings, convert

    report = Report(on_bad)
    settings = _checked(
        FilterSettings,
        negative_share=negative_share,
        max_answer_words=max_answer_words,
        coordinates="keep" if keep_coordinates else "drop",
        val_share=val_share,
        seed=seed,
    )
    records = chain.from_iterable(lrv.read(path, images, report) for path in files)
    _show(convert(records, out, settings, report), as_json=as_json)


@commands.command()
def hic(
    data: Annotated[Path, typer.Argument(help="oxford_hic_data.csv")],
    images: Annotated[Path, typer.Option(help="folder of <image_id>.jpg")],
    out: Out,
    min_score: Annotated[float, typer.Option(help="votes that a caption needs")] = 0.0,
    top_k: Annotated[int, typer.Option(help="captions of each image, by votes; 0: all")] = 0,
    min_words: int = 1,
    max_words: Annotated[int, typer.Option(help="0: no limit")] = 0,
    language: Annotated[list[str] | None, typer.Option(help="ISO 639-1, for example en")] = None,
    drop_profanity: bool = False,
    keep_duplicates: bool = False,
    weighting: Annotated[Literal["none", "log", "rank"], typer.Option(help="of the loss")] = "none",
    val_share: ValShare = 0.0,
    seed: Seed = 42,
    on_bad: OnBad = "error",
    as_json: AsJson = False,
) -> None:
    """Convert Oxford HIC to captions to finetune on, as records and in MiniGPT-4's layout.

    Example: hadpo instructions hic oxford_hic_data.csv --images images --out data/hic --top-k 5
    """
    from hadpo.data.images import ImageChecks
    from hadpo.instructions.hic import HicSettings, convert

    settings = _checked(
        HicSettings,
        min_score=min_score,
        top_k=top_k,
        min_words=min_words,
        max_words=max_words,
        languages=tuple(language or ()),
        profanity="drop" if drop_profanity else "keep",
        dedupe=not keep_duplicates,
        val_share=val_share,
        weighting=weighting,
        seed=seed,
    )
    checked = ImageChecks(config.runs_folder() / "images.jsonl")
    counts = convert(data, images, out, settings, Report(on_bad), checked=checked)
    _show(counts, as_json=as_json)


def _checked(kind: type[Settings], **values: Any) -> Settings:
    """Settings of the library; what is out of range is one message."""
    try:
        return kind(**values)
    except pydantic.ValidationError as error:
        lines = [f"{e['loc'][0]}: {e['msg']}, found {e['input']!r}" for e in error.errors()]
        raise BadInput("\n".join(lines)) from error


def _show(counts: dict, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(counts))
        return
    for name, number in sorted(counts.items()):
        typer.echo(f"{number:>10}  {name}")
