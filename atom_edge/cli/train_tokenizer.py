"""`atom-edge train-tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_tokenizer(
    shards: Annotated[
        list[Path],
        typer.Argument(help="Shards (.jsonl, .jsonl.zst, .jsonl.gz) or folders of them."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the tokenizer's files.")
    ],
    vocab_size: Annotated[int, typer.Option(help="Tokens, the five special ones included.")] = 4096,
    megabytes: Annotated[
        float, typer.Option(min=0.001, help="Text to learn from, equally from every shard.")
    ] = 60,
) -> None:
    """Train a byte-level BPE tokenizer on JSON-lines text."""
    from rich.console import Console

    from atom_edge.training.sources import find_shards, read_shard
    from atom_edge.training.tokenizer import equal_shares, save_tokenizer
    from atom_edge.training.tokenizer import train_tokenizer as train

    files = [shard for path in shards for shard in find_shards(path)]
    texts = equal_shares([read_shard(file) for file in files], round(megabytes * 1e6))
    with Console(stderr=True).status(f"Learning {vocab_size} tokens from {len(files)} shards"):
        save_tokenizer(train(texts, vocab_size), output)
    typer.echo(f"{output}: {vocab_size} tokens")
