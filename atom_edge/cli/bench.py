"""`atom-edge bench`: how fast a bundle is on this machine, in the manner of llama-bench."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from atom_edge.runtimes.benchmark import Result, Test

_COLUMNS = ("test", "threads", "batch", "tokens/s", "deviation")


class Format(enum.StrEnum):
    """Values of `--output`."""

    TABLE = "table"
    MARKDOWN = "md"
    CSV = "csv"


def bench(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle; the reference model when omitted.")
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="Prompt lengths to process, as a list.")
    ] = "256",
    generate: Annotated[
        str, typer.Option("--generate", "-n", help="Numbers of tokens to generate, as a list.")
    ] = "128",
    position: Annotated[
        str, typer.Option("--position", "-d", help="Tokens in the cache before, as a list.")
    ] = "0",
    batch: Annotated[
        str, typer.Option("--batch", "-b", help="Sequences at a time, as a list.")
    ] = "1",
    threads: Annotated[
        str | None,
        typer.Option("--threads", "-t", help="Threads, as a list; a session's own by default."),
    ] = None,
    repetitions: Annotated[
        int | None,
        typer.Option(
            "--repetitions",
            "-r",
            min=1,
            help="Runs of each test, after a warm-up; 5, and more until 2 s have passed.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="How to print.")] = Format.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the results into this .svg or .png file.")
    ] = None,
) -> None:
    """Measure prompt processing (pp) and generation (tg), tokens a second, mean and deviation.

    Lists are written with commas: --threads 1,2 --batch 1,8 --position 0,256.
    """
    from atom_edge.bundle import open_bundle
    from atom_edge.cli.steps import show_steps
    from atom_edge.hub import find_bundle
    from atom_edge.runtimes.benchmark import Test, measure
    from atom_edge.runtimes.providers import default_threads

    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise typer.BadParameter("A picture ends in .svg or .png.", param_hint="--picture")
    kinds = [(n, 0) for n in _numbers(prompt)] + [(0, n) for n in _numbers(generate)]
    opened = open_bundle(find_bundle(bundle))
    default = default_threads(opened.graph(opened.roles[0]))
    thread_counts = [default] if threads is None else _numbers(threads)
    tests = [
        Test(prompt_tokens, new_tokens, at, sequences, count)
        for count in thread_counts
        for sequences in _numbers(batch)
        for at in _numbers(position, least=0)
        for prompt_tokens, new_tokens in kinds
    ]
    results: list[Result] = []
    with show_steps(quiet=as_json) as step:
        step("warm up")
        for result in measure(opened, tests, repetitions):
            results.append(result)
            step(f"{len(results)} of {len(tests)} tests")
    if picture is not None:
        _draw(opened.manifest.source.repo or opened.path.name, results, picture)
    _print_json(results) if as_json else _print(results, output)


def _numbers(text: str, least: int = 1) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part]
    except ValueError:
        numbers = [least - 1]
    if any(number < least for number in numbers):
        raise typer.BadParameter(f"{text!r} is not a list of numbers of at least {least}.")
    return numbers


def _cells(result: Result) -> tuple[str, str, str, str, str]:
    test: Test = result.test
    return (
        test.name,
        str(test.threads),
        str(test.batch_size),
        f"{result.mean:.1f}",
        f"{result.deviation:.1f}",
    )


def _print(results: list[Result], output: Format) -> None:
    rows = [_cells(result) for result in results]
    if output is Format.CSV:
        typer.echo("\n".join(",".join(row) for row in (_COLUMNS, *rows)))
    elif output is Format.MARKDOWN:
        lines = [_COLUMNS, ("---", "---:", "---:", "---:", "---:"), *rows]
        typer.echo("\n".join("| " + " | ".join(line) + " |" for line in lines))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(*_COLUMNS)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        Console().print(table)


def _print_json(results: list[Result]) -> None:
    import dataclasses
    import json

    import onnxruntime

    summary = [
        {
            "test": result.test.name,
            **dataclasses.asdict(result.test),
            "tokens_per_second": result.mean,
            "deviation": result.deviation,
            "seconds": result.seconds,
        }
        for result in results
    ]
    typer.echo(json.dumps({"onnxruntime": onnxruntime.__version__, "results": summary}, indent=2))


def _draw(model: str, results: list[Result], picture: Path) -> None:
    from atom_edge.chart import Bar, draw_chart
    from atom_edge.runtimes.cpu import cpu_name

    bars = [
        Bar(
            f"{result.test.name}, {_counted(result.test.threads, 'thread')}, "
            f"batch {result.test.batch_size}",
            result.mean,
            result.deviation,
        )
        for result in results
    ]
    draw_chart(f"{model} on {cpu_name()}", "tokens a second", bars, picture)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
