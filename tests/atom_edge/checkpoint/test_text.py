"""Tokenizer, chat template and generation defaults of a snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from atom_edge import open_snapshot
from atom_edge.config import AtomConfig
from atom_edge.errors import TokenizerError
from atom_edge.modeling import AtomForCausalLM

SPECIAL = {"pad_token": "<|pad|>", "bos_token": {"content": "<|bos|>"}, "eos_token": "<|eos|>"}


@pytest.fixture
def folder(tmp_path: Path, write_snapshot: Callable[..., Path]) -> Path:
    shape = {"vocab_size": 300, "hidden_size": 24, "num_hidden_layers": 1}
    config = AtomConfig(**shape, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    tensors = AtomForCausalLM(config).state_dict()
    del tensors["lm_head.weight"]
    return write_snapshot(tmp_path / "model", tensors, config.to_dict())


def test_merges_become_a_tokenizer_outside_the_snapshot(folder: Path) -> None:
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    original.model.save(str(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    before = sorted(folder.iterdir())
    built = Tokenizer.from_file(str(open_snapshot(folder).tokenizer_file))
    assert sorted(folder.iterdir()) == before
    for text in ("the water cycle", " é\n\U0001f600 x", "<|bos|>the way<|eos|>"):
        assert built.encode(text).ids == original.encode(text).ids
        assert built.decode(built.encode(text).ids, skip_special_tokens=False) == text


def test_no_tokenizer_is_an_error(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        open_snapshot(folder)


def test_a_broken_tokenizer_is_an_error(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        open_snapshot(folder)


def test_a_token_without_a_row_of_the_embedding_is_an_error(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["extra"] = 300
    file.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="ids up to 300, and the embedding has 300 rows"):
        open_snapshot(folder)


def test_an_added_token_may_lack_a_row_of_the_embedding(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    missing = 302 - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<|extra{number}|>" for number in range(missing)])
    tokenizer.save(str(folder / "tokenizer.json"))
    last = f"<|extra{missing - 1}|>"
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": last}))
    snapshot = open_snapshot(folder)
    assert Tokenizer.from_file(str(snapshot.tokenizer_file)).token_to_id(last) == 301
    assert snapshot.config.pad_token_id is None


def test_end_ids_come_from_the_tokenizer_if_nothing_else_says_them(folder: Path) -> None:
    assert open_snapshot(folder).generation_config == {}
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    snapshot = open_snapshot(folder)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    assert snapshot.generation_config == ids
    assert {name: getattr(snapshot.config, name) for name in ids} == ids
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 4], "top_k": 7}')
    assert open_snapshot(folder).generation_config == {"eos_token_id": [2, 4], "top_k": 7}


def test_the_chat_template_is_found_in_all_its_places(folder: Path) -> None:
    assert open_snapshot(folder).chat_template is None
    settings = folder / "tokenizer_config.json"
    named = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    settings.write_text(json.dumps({"chat_template": named}))
    assert open_snapshot(folder).chat_template == "D"
    settings.write_text(json.dumps({"chat_template": "S"}))
    assert open_snapshot(folder).chat_template == "S"
    (folder / "chat_template.jinja").write_text("J é")
    assert open_snapshot(folder).chat_template == "J é"
