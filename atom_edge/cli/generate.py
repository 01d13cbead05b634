"""`atom-edge generate`: continue one text, for scripts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from atom_edge.cli import text as text_io
from atom_edge.runtimes.options import GenerationOptions as Default
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.providers import Provider


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; standard input when omitted.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to run; the reference model when omitted.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", help="The most tokens of the continuation.")
    ] = Default.max_new_tokens,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 takes the likeliest token each time.")
    ] = Default.temperature,
    top_k: Annotated[
        int, typer.Option(help="Sample among the K likeliest tokens; 0 for all.")
    ] = Default.top_k,
    top_p: Annotated[
        float, typer.Option(help="Sample among the likeliest tokens that hold this share.")
    ] = Default.top_p,
    min_p: Annotated[
        float, typer.Option(help="Sample among tokens at least this likely, the likeliest being 1.")
    ] = Default.min_p,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that occurred become less likely.")
    ] = Default.repetition_penalty,
    seed: Annotated[int | None, typer.Option(help="Gives the same continuation each time.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given several times.")
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(help="With --json: log-probabilities, also of the N likeliest tokens."),
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="Threads to use; few that give way to other work if omitted.")
    ] = None,
    provider: Annotated[Provider, typer.Option(help="cpu, cuda or auto.")] = "cpu",
) -> None:
    """Continue a text: the continuation goes to stdout as it comes, timings to stderr."""
    from atom_edge.runtimes.session import AtomSession

    text = text_io.read_stdin() if prompt is None else prompt
    options: Options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop or (),
        "logprobs": logprobs,
    }
    session = AtomSession.from_pretrained(bundle, threads, provider)
    if provider == "auto":
        typer.echo(text_io.placement(session), err=True)
    before = text if echo else ""
    if as_json:
        reply = session.generate(text, **options)
        fields = {"prompt": text, **dataclasses.asdict(reply), "text": before + reply.text}
        typer.echo(json.dumps(fields))
        return
    text_io.write(before)
    for piece in session.stream(text, **options):
        text_io.write(piece.text)
    text_io.write("\n")
    typer.echo(text_io.summary(piece), err=True)
