"""The command that opens the page: `hadpo page`."""

from typing import Annotated

import typer

commands = typer.Typer()


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
