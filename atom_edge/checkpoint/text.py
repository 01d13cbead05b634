"""What a snapshot says about text: tokenizer, chat template, generation defaults."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from atom_edge.checkpoint.files import read_json
from atom_edge.errors import TokenizerError

_SPECIAL = ("pad_token", "bos_token", "eos_token", "unk_token")


def tokenizer_file(folder: Path, vocab_size: int) -> Path:
    """The snapshot's `tokenizer.json`, built from `vocab.json` and `merges.txt` if it has none.

    Args:
        folder: the snapshot.
        vocab_size: rows of the embedding; no token id may reach it.

    Raises:
        TokenizerError: there is no tokenizer, it cannot be read, or it has ids without a row.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        file = _built_from_merges(folder)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"{file} is no tokenizer that can be read: {error}") from error
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocab_size:
        raise TokenizerError(
            f"{file} has token ids up to {largest}, and the embedding has {vocab_size} rows. "
            "Tokenizer and weights do not belong together."
        )
    return file


def _built_from_merges(folder: Path) -> Path:
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocabulary.is_file() and merges.is_file()):
        raise TokenizerError(
            f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt."
        )
    try:
        tokenizer = Tokenizer(BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"{vocabulary} and {merges.name} do not fit: {error}") from error
    spaced = read_json(folder / "tokenizer_config.json").get("add_prefix_space") is True
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = ByteLevelDecoder()
    known = tokenizer.get_vocab()
    special = [text for text in special_tokens(folder).values() if text in known]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    # The snapshot may be the hub's cache, which is not ours to write to.
    scratch = Path(tempfile.mkdtemp(prefix="atom-edge-tokenizer-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    tokenizer.save(str(scratch / "tokenizer.json"))
    return scratch / "tokenizer.json"


def special_tokens(folder: Path) -> dict[str, str]:
    """Texts of the special tokens by role, such as `{"eos_token": "<|eos|>"}`."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = read_json(folder / name)
        for role in _SPECIAL:
            token = settings.get(role)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                found[role] = text
    return found


def chat_template(folder: Path) -> str | None:
    """The Jinja template of a conversation, or None for a base model."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def token_ids(folder: Path, tokenizer: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """`pad_token_id`, `bos_token_id` and `eos_token_id`: config.json's, else the tokenizer's."""
    opened, texts = Tokenizer.from_file(str(tokenizer)), special_tokens(folder)
    ids: dict[str, Any] = {}
    for role in ("pad", "bos", "eos"):
        text = texts.get(f"{role}_token")
        by_text = opened.token_to_id(text) if text is not None else None
        stated = raw.get(f"{role}_token_id")
        ids[f"{role}_token_id"] = by_text if stated is None else stated
    return ids


def generation_config(folder: Path, ids: dict[str, Any]) -> dict[str, Any]:
    """`generation_config.json`, or what follows from the special tokens' ids if there is none."""
    stated = read_json(folder / "generation_config.json")
    return stated or {name: value for name, value in ids.items() if value is not None}
