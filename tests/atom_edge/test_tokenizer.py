"""The tokenizer wrapper, and the invariant of streaming: joined pieces equal the whole text."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from atom_edge.errors import TokenizerError
from atom_edge.reference import bundle_path
from atom_edge.tokenizer import Tokenizer

SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>", "<|endoftext|>"]
TEXT = [
    "The water cycle is the path of water. Naïve café, 日本語のテキスト",
    "🙂👩‍👩‍👧 and   spaces\n\n\ttabs.",
    "def f(x):\n    return x ** 2  # 3.14159",
]
NASTY = [
    "",
    " ",
    "\0",
    "\r\n",
    "a\u0301",
    "🙂",
    "👩‍👩‍👧",
    "\ufeffBOM",
    "\ufffd",
    "ي\u200f",
    "\U0010ffff",
    "  two",
]


def byte_level() -> Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXT * 3, trainer)
    inner.add_tokens([tokenizers.AddedToken("ウ→added", special=False)])
    return Tokenizer(inner)


def byte_fallback() -> Tokenizer:
    """A vocabulary in the manner of SentencePiece: `▁` for spaces and <0xNN> for bytes."""
    pieces = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁a",
        "b",
        "�",
        "日",
    ]
    inner = tokenizers.Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True)
    )
    inner.add_special_tokens(["</s>"])
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(inner)


BYTE_LEVEL, BYTE_FALLBACK = byte_level(), byte_fallback()


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer, half = tokenizer.detokenizer(), len(ids) // 2
    together = [detokenizer.push_all(ids[:half]), detokenizer.push_all(ids[half:])]
    together.append(detokenizer.flush())
    pieces = [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]
    assert "".join(together) == "".join(pieces)
    return pieces


@settings(max_examples=400, deadline=None)
@given(st.lists(st.integers(0, BYTE_LEVEL.vocab_size + 3), max_size=40))
def test_joined_pieces_are_the_whole_text_for_any_ids(ids: list[int]) -> None:
    assert "".join(streamed(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=40))
def test_joined_pieces_are_the_whole_text_for_any_bytes(data: bytes) -> None:
    characters = bytes_to_unicode()
    ids = [BYTE_LEVEL.token_to_id(characters[byte]) for byte in data]
    text = data.decode(errors="replace")
    assert "".join(streamed(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids) == text


@settings(max_examples=400, deadline=None)
@given(st.lists(st.integers(0, BYTE_FALLBACK.vocab_size - 1), max_size=30))
def test_joined_pieces_are_the_whole_text_with_byte_fallback(ids: list[int]) -> None:
    assert "".join(streamed(BYTE_FALLBACK, ids)) == BYTE_FALLBACK.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    ids = BYTE_LEVEL.encode(text)
    assert BYTE_LEVEL.decode(ids) == text == "".join(streamed(BYTE_LEVEL, ids))


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_comes_back(text: str) -> None:
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode(text)) == text


def test_incomplete_utf8_is_held_back() -> None:
    ids = BYTE_LEVEL.encode("ꙮ")
    assert len(ids) == 3
    assert streamed(BYTE_LEVEL, ids) == ["", "", "ꙮ", ""]
    assert streamed(BYTE_LEVEL, ids[:2]) == ["", "", "\ufffd"]


def test_a_detokenizer_can_be_used_again_after_flush() -> None:
    for tokenizer in (BYTE_LEVEL, BYTE_FALLBACK):
        detokenizer = tokenizer.detokenizer()
        first = tokenizer.encode("ab")[0]
        assert detokenizer.push(first) + detokenizer.flush() == tokenizer.decode([first])
        assert detokenizer.push(first) + detokenizer.flush() == tokenizer.decode([first])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, BYTE_FALLBACK.vocab_size - 1), max_size=30))
def test_byte_fallback_decodes_as_tokenizers_does_unless_bytes_are_no_utf8(ids: list[int]) -> None:
    theirs = BYTE_FALLBACK._inner.decode(ids)
    if "\ufffd" not in theirs:
        assert BYTE_FALLBACK.decode(ids) == theirs


def test_a_character_of_byte_tokens_is_shown_as_it_ends() -> None:
    ids = [BYTE_FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in "🙂".encode() * 60]
    pieces = streamed(BYTE_FALLBACK, [token_id for token_id in ids if token_id is not None])
    assert pieces == ["", "", "", "🙂"] * 60 + [""]


def test_a_text_that_goes_on_keeps_its_first_space() -> None:
    space, letter = (BYTE_FALLBACK.token_to_id(token) for token in ("▁a", "b"))
    assert space is not None
    assert letter is not None
    assert BYTE_FALLBACK.decode([space, letter]) == "ab"
    assert BYTE_FALLBACK.detokenizer(after=[letter]).push(space) == " a"
    assert BYTE_FALLBACK.detokenizer(after=[1]).push(space) == "a"  # a special token is no text
    assert BYTE_FALLBACK.token_text(space) == " a"


@pytest.mark.parametrize(
    "decoder",
    [decoders.WordPiece(), decoders.BPEDecoder("</w>"), decoders.Metaspace(), decoders.CTC(), None],
)
def test_other_decoders_stream_what_they_decode(decoder: decoders.Decoder | None) -> None:
    tokens = ["a", "##b", "c</w>", "▁d", "e", ".", "|"]
    inner = tokenizers.Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, "a"))
    inner.decoder = decoder
    tokenizer = Tokenizer(inner)
    ids = [0, 1, 2, 3, 4, 5, 0, 2]
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
    assert tokenizer.decode(ids[:3]) == inner.decode(ids[:3])


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK])
def test_a_text_takes_time_in_proportion_to_its_length(tokenizer: Tokenizer) -> None:
    def seconds(length: int) -> float:
        ids = [10 + number % 90 for number in range(length)]
        started = time.process_time()
        streamed(tokenizer, ids)
        return time.process_time() - started

    seconds(1000)
    assert min(seconds(32_000) for _ in range(3)) < 24 * min(seconds(4000) for _ in range(3))


def test_special_tokens_are_read_and_not_shown() -> None:
    ids = BYTE_LEVEL.encode("a<|endoftext|>b")
    assert BYTE_LEVEL.token_to_id("<|endoftext|>") == 4
    assert 4 in ids
    assert BYTE_LEVEL.decode(ids) == "ab" == "".join(streamed(BYTE_LEVEL, ids))


def test_nothing_is_added_cut_or_padded(tmp_path: Path) -> None:
    inner = tokenizers.Tokenizer.from_str(BYTE_LEVEL._inner.to_str())
    inner.enable_truncation(3)
    inner.enable_padding(length=64)
    inner.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert loaded.encode(TEXT[0]) == BYTE_LEVEL.encode(TEXT[0])


def test_lone_surrogates_are_an_error() -> None:
    with pytest.raises(TokenizerError, match="surrogate at character 1"):
        BYTE_LEVEL.encode("a\udce9")


@pytest.mark.parametrize("content", ["", "{}", "{", '{"model": {"type": "BPE"}}', "\0\1"])
def test_a_broken_file_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=r"not a readable tokenizer\.json"):
        Tokenizer.from_file(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer file"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_closed_stderr_is_no_fault() -> None:
    code = (
        "import os; os.close(2)\n"
        "from atom_edge.reference import bundle_path; from atom_edge.tokenizer import Tokenizer\n"
        "print(Tokenizer.from_file(bundle_path() / 'tokenizer.json').vocab_size)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "4096\n"


@pytest.mark.parametrize("special", [False, True])
def test_a_long_text_is_encoded_like_a_short_one(
    monkeypatch: pytest.MonkeyPatch, special: bool
) -> None:
    tokenizer = Tokenizer.from_file(bundle_path() / "tokenizer.json")
    text = "The river  is 12 km long.\n<|endoftext|>Été 🙂 " * 500
    long = tokenizer.encode(text, add_special_tokens=special)
    monkeypatch.setattr("atom_edge.tokenizer._LONG", len(text) + 1)
    assert tokenizer.encode(text, add_special_tokens=special) == long
