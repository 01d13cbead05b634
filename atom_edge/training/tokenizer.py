"""Training of the byte-level BPE tokenizer.

The saved `tokenizer.json` uses plain GPT-2 pre-tokenization, so that `tokenizers`,
`GPT2TokenizerFast` and every other reader of that format agree on any text. Numbers are kept
apart digit by digit, which arithmetic needs, by what is learned instead: the trainer never sees
two digits in one word, so that no merge joins them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from atom_edge.errors import TrainingError
from atom_edge.staging import write_file

PAD, BOS, EOS, UNK, END_OF_TEXT = SPECIAL_TOKENS = (
    "<|pad|>",
    "<|bos|>",
    "<|eos|>",
    "<|unk|>",
    "<|endoftext|>",
)
_BYTES = 256


def train_tokenizer(texts: Iterator[str], vocab_size: int = 4096) -> Tokenizer:
    """Learn a byte-level BPE (Sennrich et al., arXiv 1508.07909; bytes as in GPT-2).

    Args:
        texts: documents; read once.
        vocab_size: all tokens, the special ones (ids 0 to 4) and the 256 bytes included.

    Raises:
        TrainingError: for a vocabulary without room for bytes and special tokens, or texts too
            few to fill it.
    """
    smallest = len(SPECIAL_TOKENS) + _BYTES
    if vocab_size < smallest:
        raise TrainingError(
            f"A vocabulary of {vocab_size} has no room for 256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens. Ask for at least {smallest}."
        )
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits_apart = pre_tokenizers.Split(Regex(r" ?\d"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits_apart, words])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise TrainingError(
            f"The texts gave only {tokenizer.get_vocab_size()} of {vocab_size} tokens. "
            "Give more text, or ask for a smaller vocabulary."
        )
    tokenizer.pre_tokenizer = words
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int = 512) -> None:
    """Write what `GPT2TokenizerFast.from_pretrained` and `tokenizers` read into `folder`.

    Args:
        tokenizer: as `train_tokenizer` returns it.
        folder: made when missing; tokenizer files already there are replaced.
        context_length: written as the length above which transformers warns, in tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    roles = {
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
    }
    settings = {
        "tokenizer_class": "GPT2TokenizerFast",
        "model_max_length": context_length,
        "add_prefix_space": False,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        **roles,
        "additional_special_tokens": [END_OF_TEXT],
    }
    write_file(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(
        folder / "special_tokens_map.json", {**roles, "additional_special_tokens": [END_OF_TEXT]}
    )


def equal_shares(shards: Sequence[Iterator[str]], total_bytes: int) -> Iterator[str]:
    """Yield documents until every one of `shards` has given its equal share of `total_bytes`.

    A shard that ends early is simply used up.
    """
    share = total_bytes // max(1, len(shards))
    for documents in shards:
        taken = 0
        for text in documents:
            yield text
            taken += len(text.encode())
            if taken >= share:
                break


def _write_json(path: Path, content: object) -> None:
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())
