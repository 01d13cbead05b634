"""The C++ tokenizer gives the ids of `tokenizers`, or refuses by name what it cannot do."""

from __future__ import annotations

import ctypes
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from atom_edge.reference import checkpoint_path
from atom_edge.runtimes import native

GPT2: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "use_regex": True,
    "trim_offsets": True,
}
BYTES: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "use_regex": False,
    "trim_offsets": True,
}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {"pre_tokenizer": GPT2},
    "prefix": {"pre_tokenizer": {**GPT2, "add_prefix_space": True}},
    "smollm2": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, GPT2)},
    "llama3": {"pre_tokenizer": sequence(split(LLAMA3), BYTES)},
    "qwen2": {"pre_tokenizer": sequence(split(QWEN2), BYTES), "normalizer": {"type": "NFC"}},
}
WORDS = (
    *("the", " water", "'s", "'S", "'\u017f", "'LL", "'re", "'Ve", "can't", "  ", "\n", "\r\n"),
    *(" \n ", "\t", "\u00a0", "\u3000", "12345", "7", "\u00bd", "\u0663", "\u00e9", "e\u0301"),
    *("\u0344", "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "\ud55c", "\u1112\u1161\u11ab"),
    *("\u212b", "\U0001f642", "\u200d", "\U0001f468\u200d\U0001f469", "!?", "...", " -", "\x00"),
    *(
        "<|endoftext|>",
        "</s>",
        "▁",
        "<|eos",
        "<|bos|>",
        "\ufffd",
        "\U0010ffff",
        "\u0958",
        "\u4e2d\u6587",
    ),
)


PREPEND: dict[str, Any] = {"type": "Prepend", "prepend": "▁"}
SPACES: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
AFTER_SPACES: dict[str, Any] = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}


def metaspace(**options: Any) -> dict[str, Any]:
    return {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", **options}}


# Of SentencePiece's kind: Llama's old form and its new one, Gemma's, and what else is written.
SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "llama": {"normalizer": {"type": "Sequence", "normalizers": [PREPEND, SPACES]}},
    "gemma": {"normalizer": SPACES, "pre_tokenizer": AFTER_SPACES},
    "after": {"pre_tokenizer": AFTER_SPACES},
    "first": metaspace(prepend_scheme="first", split=False),
    "always": metaspace(prepend_scheme="always", split=True),
    "never": metaspace(prepend_scheme="never", split=True),
    "digits": {
        "pre_tokenizer": sequence(
            {"type": "Digits", "individual_digits": True},
            metaspace(prepend_scheme="first", split=True)["pre_tokenizer"],
        )
    },
}


def sentencepiece(folder: Path, fallback: bool = True, **changes: object) -> Path:
    """A BPE over characters, of the words below: with a token for every byte, or without."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    text = [word.replace(" ", "▁") for word in (*WORDS, "water", "▁the▁sea", "▁can", "they")]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, min_frequency=1, show_progress=False, limit_alphabet=60
    )
    inner.train_from_iterator([word for word in text * 2 if "<" not in word], trainer)
    settings = json.loads(inner.to_str())
    learned = settings["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256 * fallback))]
    vocabulary = [*first, *sorted(learned["vocab"], key=learned["vocab"].get)]
    model = {
        **learned,
        "vocab": {token: place for place, token in enumerate(vocabulary)},
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": fallback,
    }
    special = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    added = [
        {"id": 1, "content": "<s>", "normalized": False, **special},
        {"id": 2, "content": "</s>", "normalized": True, **special},
    ]
    path = folder / "tokenizer.json"
    settings |= {"model": model, "added_tokens": added, **changes}
    path.write_text(json.dumps(settings), "utf-8")
    return path


class Tokenizer:
    """A tokenizer.json in the library."""

    def __init__(self, path: Path) -> None:
        found = native.library()
        assert found is not None
        self._library = library = ctypes.CDLL(str(found))
        library.atom_edge_tokenizer_open.restype = ctypes.c_void_p
        library.atom_edge_tokenizer_encode.restype = ctypes.c_size_t
        error = (ctypes.c_char * 516)()
        self._handle = library.atom_edge_tokenizer_open(str(path).encode(), error)
        if not self._handle:
            raise ValueError(error[4:].split(b"\0")[0].decode())

    def encode(self, text: bytes) -> list[int] | None:
        ids = (ctypes.c_uint32 * (len(text) * 2 + 8))()
        count = self._library.atom_edge_tokenizer_encode(
            *(ctypes.c_void_p(self._handle), text, ctypes.c_size_t(len(text))),
            *(ids, ctypes.c_size_t(len(ids)), None),
        )
        return None if count == ctypes.c_size_t(-1).value else ids[:count]

    def close(self) -> None:
        self._library.atom_edge_tokenizer_free(ctypes.c_void_p(self._handle))


def write(folder: Path, **changes: object) -> Path:
    settings = json.loads((checkpoint_path() / "tokenizer.json").read_text("utf-8"))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**settings, **changes}), "utf-8")
    return path


def nasty(dice: random.Random) -> str:
    def part() -> str:
        if dice.random() < 0.7:
            return dice.choice(WORDS)
        code = dice.randrange(dice.choice((0x80, 0x800, 0x3000, 0x10000, 0x110000)))
        return "" if 0xD800 <= code < 0xE000 else chr(code)

    return "".join(part() for _ in range(dice.randrange(1, 24)))


def check_nasty_strings(path: Path) -> None:
    seed = int(os.environ.get("ATOM_EDGE_SEED", random.SystemRandom().randrange(2**32)))
    print(f"ATOM_EDGE_SEED={seed}")
    dice = random.Random(seed)
    expected, ours = tokenizers.Tokenizer.from_file(str(path)), Tokenizer(path)
    for _ in range(int(os.environ.get("ATOM_EDGE_STRINGS", "5000"))):
        text = nasty(dice)
        assert ours.encode(text.encode()) == expected.encode(text).ids, ascii(text)
    ours.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_ids_are_those_of_tokenizers(name: str, tmp_path: Path) -> None:
    check_nasty_strings(write(tmp_path, **VARIANTS[name]))


@pytest.mark.parametrize("name", SENTENCEPIECE)
@pytest.mark.parametrize("fallback", [True, False])
def test_ids_of_sentencepiece_are_those_of_tokenizers(
    name: str, fallback: bool, tmp_path: Path
) -> None:
    path = sentencepiece(tmp_path, fallback, **SENTENCEPIECE[name])
    check_nasty_strings(path)


def test_every_character_is_of_the_same_kind(tmp_path: Path) -> None:
    """Each between two letters: where the word ends shows what it is."""
    path = write(tmp_path, **VARIANTS["smollm2"])
    expected, ours = tokenizers.Tokenizer.from_file(str(path)), Tokenizer(path)
    everything = [*range(0xD800), *range(0xE000, 0x110000)]
    for start in range(0, len(everything), 8192):
        text = "".join(f"t{chr(code)}he1" for code in everything[start : start + 8192])
        assert ours.encode(text.encode()) == expected.encode(text).ids, hex(everything[start])
    ours.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "the pre-tokenizer Whitespace"),
        ({"pre_tokenizer": sequence(split("a+b"), BYTES)}, r"Split with the pattern a\+b"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}}, "regular"),
        ({"pre_tokenizer": {**AFTER_SPACES, "behavior": "Removed"}}, "Split at the text"),
        (
            {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "byte_fallback": True}},
            "byte_fallback names <0x00>",
        ),
        ({"model": {"type": "Unigram", "vocab": []}}, "the model Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "a merge names b"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, "out of range"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        Tokenizer(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 99, '{"a": 1,}', '{"a": "\\ud800"}', '"\x01"', "01", "{} x", "nul"]
)
def test_broken_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match="is not valid JSON"):
        Tokenizer(path)


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    ours = Tokenizer(write(tmp_path))
    for text in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80"):
        assert ours.encode(text) is None
    assert ours.encode(b"") == []
    ours.close()
