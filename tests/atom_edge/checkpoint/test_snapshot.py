"""open_snapshot on folders that this package or transformers saved."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from tokenizers.implementations import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from atom_edge import open_snapshot
from atom_edge.config import AtomConfig
from atom_edge.modeling import AtomForCausalLM

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.08,
}
IDS = torch.arange(60)[None] * 5 % 300


def train_tokenizer(folder: Path) -> None:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        ["the water cycle is the way of the water"] * 20,
        vocab_size=280,
        special_tokens=["<|pad|>", "<|bos|>", "<|eos|>"],
        show_progress=False,
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def atom_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AtomForCausalLM(AtomConfig(**SHAPE)).save_pretrained(tmp_path)
    train_tokenizer(tmp_path)
    return tmp_path


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_a_folder_of_our_own(atom_folder: Path) -> None:
    snapshot = open_snapshot(atom_folder)
    saved = AtomForCausalLM.from_pretrained(atom_folder).eval()
    assert torch.equal(logits(snapshot.model), logits(saved))
    assert snapshot.path == atom_folder
    assert snapshot.config is snapshot.model.config
    opened, original = snapshot.config.to_dict(), saved.config.to_dict()
    incidental = {"_name_or_path", "architectures", "dtype", "initializer_range"}
    assert {name for name in original if opened[name] != original[name]} <= incidental
    assert snapshot.model.lm_head.weight is snapshot.model.model.embed_tokens.weight
    assert not snapshot.model.training
    assert snapshot.tokenizer_file == atom_folder / "tokenizer.json"
    assert snapshot.generation_config["eos_token_id"] == 2
    assert snapshot.chat_template is None
    digest = hashlib.sha256((atom_folder / "model.safetensors").read_bytes()).hexdigest()
    assert snapshot.provenance == {
        "repo": atom_folder.name,
        "revision": None,
        "sha256": {"model.safetensors": digest},
        "tensor_names": "Llama",
        "notes": [],
        "variant": None,
        "license": None,
        "license_name": None,
        "license_link": None,
        "base_model": (),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = AtomForCausalLM(AtomConfig(**SHAPE)).to(dtype)
    model.save_pretrained(tmp_path)
    train_tokenizer(tmp_path)
    opened = open_snapshot(tmp_path).model
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}
    for name, parameter in opened.state_dict().items():
        assert torch.equal(parameter, model.state_dict()[name].float())


@pytest.mark.parametrize("tied", [True, False])
def test_a_sharded_llama(tmp_path: Path, tied: bool) -> None:
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied)).eval()
    llama.save_pretrained(tmp_path, max_shard_size="60KB")
    train_tokenizer(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    snapshot = open_snapshot(tmp_path)
    assert snapshot.config.tie_word_embeddings is tied
    assert not snapshot.config.xsa
    assert snapshot.config.rope_theta == 10000.0
    assert len(snapshot.provenance["sha256"]) == len(list(tmp_path.glob("*.safetensors")))
    torch.testing.assert_close(logits(snapshot.model), logits(llama), rtol=0, atol=1e-5)
