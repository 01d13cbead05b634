"""What a snapshot says about text: tokenizer, chat template, generation defaults.

The tokenizer is the one that transformers makes of the folder, from whatever files it has:
`tokenizer.json`, `vocab.json` with `merges.txt`, `added_tokens.json`, `special_tokens_map.json`,
`tokenizer_config.json` with its class and `added_tokens_decoder`. What comes out is one
`tokenizer.json` that says everything.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from tokenizers.processors import Sequence as ProcessorSequence
from tokenizers.processors import TemplateProcessing

from atom_edge.checkpoint.files import read_json
from atom_edge.errors import SnapshotError, TokenizerError
from atom_edge.tokenizer import tokenizer_errors
from atom_edge.transformers_versions import quiet_transformers

_ROLES = ("pad_token", "bos_token", "eos_token", "unk_token")
_SENTENCEPIECE = "tokenizer.model"


@dataclass(frozen=True)
class SnapshotTokenizer:
    """A snapshot's tokenizer as a bundle keeps it.

    Attributes:
        file: a `tokenizer.json`; outside the snapshot where its own does not say everything.
        special_tokens: texts of the special tokens by role, such as `{"eos_token": "<|eos|>"}`.
        config: `tokenizer_config.json` with these texts in it.
    """

    file: Path
    special_tokens: dict[str, str]
    config: dict[str, Any]


def open_tokenizer(folder: Path, vocab_size: int) -> SnapshotTokenizer:
    """The tokenizer that transformers makes of a snapshot's files.

    Args:
        folder: the snapshot.
        vocab_size: rows of the embedding; no id of the vocabulary may reach it. Added tokens may:
            a prompt that holds one is refused when it comes.

    Raises:
        TokenizerError: there is no tokenizer, it cannot be read, its files contradict each other,
            or it has ids without a row.
    """
    file = folder / "tokenizer.json"
    written = _content_of(file) if file.is_file() else None
    config = read_json(folder / "tokenizer_config.json")
    loaded = _load(folder, config)
    if not hasattr(loaded, "backend_tokenizer"):
        raise TokenizerError(
            f"{folder} has a {type(loaded).__name__}, which the tokenizers library does not do."
        )
    inner: Tokenizer = loaded.backend_tokenizer
    inner.no_truncation()
    inner.no_padding()
    special = {role: str(getattr(loaded, role)) for role in _ROLES if getattr(loaded, role)}
    _check_added(folder, config, inner)
    if config.get("add_bos_token") is True and "bos_token" in special:
        _begin_with(inner, special["bos_token"])
    largest = max(inner.get_vocab(with_added_tokens=False).values(), default=-1)
    if largest >= vocab_size:
        raise TokenizerError(
            f"{folder} has token ids up to {largest}, and the embedding has {vocab_size} rows. "
            "Tokenizer and weights do not belong together."
        )
    says_everything = json.loads(inner.to_str()) == written
    return SnapshotTokenizer(
        file if says_everything else _saved(inner), special, {**config, **special}
    )


def as_transformers_encodes(folder: Path) -> Callable[[str], list[int]]:
    """What makes token ids of a prompt in transformers, from a snapshot's own files."""
    config = read_json(folder / "tokenizer_config.json")
    loaded = _load(folder, config)
    # Some classes overlook the setting.
    begins = config.get("add_bos_token") is True and loaded.bos_token_id is not None

    def encode(text: str) -> list[int]:
        ids: list[int] = loaded(text, truncation=False, padding=False).input_ids
        lacks = begins and ids[:1] != [loaded.bos_token_id]
        return [loaded.bos_token_id, *ids] if lacks else ids

    return encode


def _load(folder: Path, config: dict[str, Any]) -> Any:
    has_file = (folder / "tokenizer.json").is_file()
    has_merges = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not (has_file or has_merges or (folder / _SENTENCEPIECE).is_file()):
        raise TokenizerError(
            f"{folder} has no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, "
            f"nor {_SENTENCEPIECE}."
        )
    name = config.get("tokenizer_class")
    if not isinstance(name, str | None):
        raise TokenizerError(
            f"{folder / 'tokenizer_config.json'}: tokenizer_class is {name!r}; it must be a name."
        )
    # transformers does not read a token that is an object without its own mark of one.
    texts = {
        role: _text_of(config[role], f"{folder / 'tokenizer_config.json'}: {role}")
        for role in _ROLES
        if isinstance(config.get(role), dict) and "__type" not in config[role]
    }
    named = f" ({name})" if name is not None else ""
    with quiet_transformers(), tokenizer_errors(f"The tokenizer of {folder}{named} cannot be read"):
        if has_file and (name is None or not _is_known(name)):
            return transformers.PreTrainedTokenizerFast.from_pretrained(folder, **texts)
        if name is None and has_merges:
            # Nothing says which class it is: a plain byte-level one, without tokens of its own.
            unnamed = {role: None for role in _ROLES if role not in _stated(folder, config)}
            return transformers.GPT2TokenizerFast.from_pretrained(folder, **unnamed, **texts)
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **texts
        )


def _text_of(token: dict[str, Any], where: str) -> str:
    content = token.get("content")
    if not isinstance(content, str):
        raise TokenizerError(f"{where}: it has no content that is a text.")
    return content


def _is_known(name: str) -> bool:
    plain = name.removesuffix("Fast")
    return any(hasattr(transformers, known) for known in (plain, f"{plain}Fast"))


def _stated(folder: Path, config: dict[str, Any]) -> set[str]:
    stated = {**config, **read_json(folder / "special_tokens_map.json")}
    return {role for role in _ROLES if stated.get(role) is not None}


def _check_added(folder: Path, config: dict[str, Any], inner: Tokenizer) -> None:
    """Refuse ids of added tokens that are not those of the tokenizer that came out."""
    stated = dict(read_json(folder / "added_tokens.json"))
    listed = config.get("added_tokens_decoder")
    for token_id, token in listed.items() if isinstance(listed, dict) else ():
        if isinstance(token, dict):
            stated[str(token.get("content"))] = token_id
    for text, token_id in stated.items():
        found = inner.token_to_id(text)
        if str(found) != str(token_id):
            raise TokenizerError(
                f"{folder} gives the added token {text!r} the id {token_id}, and its tokenizer "
                f"gives it {'none' if found is None else found}. Its files contradict each other."
            )


def _begin_with(inner: Tokenizer, text: str) -> None:
    """Make the tokenizer put a token first, unless it does so already."""
    token_id = inner.token_to_id(text)
    if token_id is None or inner.encode("").ids[:1] == [token_id]:
        return
    first = TemplateProcessing(single=[text, "$A"], special_tokens=[(text, token_id)])
    before = inner.post_processor
    inner.post_processor = first if before is None else ProcessorSequence([before, first])


def _content_of(file: Path) -> Any:
    with tokenizer_errors(f"{file} is no tokenizer that can be read"):
        inner = Tokenizer.from_file(str(file))
    inner.no_truncation()
    inner.no_padding()
    return json.loads(inner.to_str())


def _saved(inner: Tokenizer) -> Path:
    # The snapshot may be the hub's cache, which is not ours to write to.
    scratch = Path(tempfile.mkdtemp(prefix="atom-edge-tokenizer-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    inner.save(str(scratch / "tokenizer.json"))
    return scratch / "tokenizer.json"


def chat_template(folder: Path) -> str | None:
    """The Jinja template of a conversation, or None for a base model."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SnapshotError(f"{file} cannot be read as UTF-8: {error}") from error
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {
            entry.get("name"): entry.get("template")
            for entry in template
            if isinstance(entry, dict) and isinstance(entry.get("name"), str)
        }
        template = named.get("default")
    return template if isinstance(template, str) else None


def token_ids(tokenizer: SnapshotTokenizer, raw: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """`pad_token_id`, `bos_token_id` and `eos_token_id`: config.json's, else the tokenizer's."""
    opened = Tokenizer.from_file(str(tokenizer.file))
    ids: dict[str, Any] = {}
    for role in ("pad", "bos", "eos"):
        text = tokenizer.special_tokens.get(f"{role}_token")
        found = opened.token_to_id(text) if text is not None else None
        known = found if found is not None and found < vocab_size else None
        stated = raw.get(f"{role}_token_id")
        ids[f"{role}_token_id"] = known if stated is None else stated
    return ids


def generation_config(folder: Path, ids: dict[str, Any]) -> dict[str, Any]:
    """`generation_config.json`, or what follows from the special tokens' ids if there is none."""
    stated = read_json(folder / "generation_config.json")
    return stated or {name: value for name, value in ids.items() if value is not None}
