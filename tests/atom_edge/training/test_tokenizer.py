"""The tokenizer's training, and the two libraries that read what it saves."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2TokenizerFast
from typer.testing import CliRunner

from atom_edge.cli import app
from atom_edge.errors import TrainingError
from atom_edge.training.tokenizer import (
    SPECIAL_TOKENS,
    equal_shares,
    save_tokenizer,
    train_tokenizer,
)

REFERENCE = Path(__file__).parents[3] / "atom_edge" / "reference" / "checkpoint"
TEXT = "the water of a river is warm and clear; we'll see 12 boats, 305 birds\nÄther 日本"


def documents(count: int = 400) -> list[str]:
    chance = random.Random(0)
    return [" ".join(chance.choices(TEXT.split(" "), k=30)) for _ in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(iter(documents()), vocab_size=300), folder)
    return folder


def load_both(folder: Path) -> tuple[Tokenizer, GPT2TokenizerFast]:
    return (
        Tokenizer.from_file(str(folder / "tokenizer.json")),
        GPT2TokenizerFast.from_pretrained(folder),
    )


def test_special_tokens_have_the_first_ids(trained: Path) -> None:
    plain, wrapped = load_both(trained)
    assert [plain.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert plain.get_vocab_size() == 300
    roles = (wrapped.pad_token, wrapped.bos_token, wrapped.eos_token, wrapped.unk_token)
    assert roles == SPECIAL_TOKENS[:4]
    assert wrapped.all_special_ids == [1, 2, 3, 0, 4]
    assert type(AutoTokenizer.from_pretrained(trained)) is GPT2TokenizerFast


def test_training_repeats_exactly(trained: Path, tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(iter(documents()), vocab_size=300), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


REFERENCE_PAIR = load_both(REFERENCE)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet=" \n\t0123456789abcÄé'’日<|endoftext>", max_size=40))
def test_tokenizers_and_transformers_agree_and_restore_the_text(text: str) -> None:
    plain, wrapped = REFERENCE_PAIR
    ids = plain.encode(text).ids
    assert wrapped(text)["input_ids"] == ids
    assert wrapped.decode(ids) == plain.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=100, deadline=None)
@given(
    number=st.integers(0, 10**9), words=st.sampled_from(["in {}", "{} +", "({})", "a{}b", "\n{}"])
)
def test_numbers_are_split_into_digits(number: int, words: str) -> None:
    tokens = REFERENCE_PAIR[0].encode(words.format(number)).tokens
    assert all(sum(c.isdigit() for c in token) <= 1 for token in tokens)


def test_shards_give_equal_shares() -> None:
    shards = [iter(["aaaa"] * 10), iter(["b"] * 100), iter(["cc"])]
    taken = list(equal_shares(shards, total_bytes=24))
    assert (taken.count("aaaa"), taken.count("b"), taken.count("cc")) == (2, 8, 1)


def test_too_little_text_or_too_few_tokens_is_refused() -> None:
    with pytest.raises(TrainingError, match="of 4096 tokens"):
        train_tokenizer(iter(["one short text"]))
    with pytest.raises(TrainingError, match="at least 261"):
        train_tokenizer(iter(documents()), vocab_size=260)


def test_command(tmp_path: Path) -> None:
    shard = tmp_path / "part.jsonl"
    shard.write_text("".join(f'{{"text": "{" ".join(t.split())}"}}\n' for t in documents()))
    out = tmp_path / "out"
    arguments = ["train-tokenizer", str(tmp_path), "-o", str(out), "--vocab-size", "290"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "290 tokens" in result.stdout
    assert Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab_size() == 290
