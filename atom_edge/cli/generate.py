"""`atom-edge generate`: continue one text, for scripts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from atom_edge.cli import text as text_io
from atom_edge.cli.generation import with_generation_options
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.providers import Provider


@with_generation_options()
def generate(
    options: Options,
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; standard input when omitted.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to run; the reference model when omitted.")
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before it.")] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a message: use the chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System message, with --chat.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="File of what the model computed: read if it is there, then written. A prompt "
            "that begins as the last one did starts faster."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="Worker threads; default: leaves cores free.")
    ] = None,
    provider: Annotated[Provider, typer.Option(help="cpu, cuda or auto.")] = "cpu",
) -> None:
    """Continue a text: the continuation goes to stdout as it comes, timings to stderr."""
    from atom_edge.runtimes.reply import collect
    from atom_edge.runtimes.session import AtomSession

    if system and not chat:
        raise typer.BadParameter("A system message needs --chat.", param_hint="--system")
    text = text_io.read_stdin() if prompt is None else prompt
    session = AtomSession.from_pretrained(bundle, threads, provider)
    if provider == "auto":
        typer.echo(text_io.placement(session), err=True)
    decoder = session.open_cache(cache) if cache and cache.exists() else session.new_decoder()
    before = text if echo else ""
    asked = session.chat_prompt(_messages(text, system)) if chat else text
    if as_json:
        pieces = list(session.stream(asked, decoder=decoder, **options))
        reply = collect(pieces, session.end_ids)
        fields = {"prompt": text, **dataclasses.asdict(reply), "text": before + reply.text}
        if reply.logprobs is not None:
            fields["logprobs"] = [text_io.with_text(entry, session) for entry in reply.logprobs]
        typer.echo(json.dumps(fields))
    else:
        text_io.write(before)
        logprobs = []
        for piece in session.stream(asked, decoder=decoder, **options):
            text_io.write(piece.text)
            logprobs += [piece.logprob] if piece.logprob else []
        text_io.write("\n")
        for logprob in logprobs:
            typer.echo(text_io.logprob(logprob, session), err=True)
        typer.echo(text_io.summary(piece), err=True)
    if cache:
        session.save_cache(decoder, cache)


def _messages(text: str, system: str | None) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": text}]
