"""A GGUF file, opened through transformers' own reader."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from families import SHAPE, save_random, tokenizer

from atom_edge import open_snapshot
from atom_edge.errors import SnapshotError

OPTIONS = {"num_hidden_layers": 1}


def write_gguf(folder: Path, file: Path) -> torch.nn.Module:
    """A random Llama in `folder`, and the same as a GGUF file in float32."""
    model = save_random(folder, "Llama", OPTIONS)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_block_count(1)
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(SHAPE["vocab_size"])
    inner = json.loads(tokenizer()._tokenizer.to_str())["model"]
    tokens = sorted(inner["vocab"], key=inner["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(pair) for pair in inner["merges"]])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if ".q_proj" in name or ".k_proj" in name:  # rows in pairs, as llama.cpp rotates
            values = values.reshape(-1, 2, 8, 64).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(
            names.get_name(name, (".weight",)), np.ascontiguousarray(values, np.float32)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_is_the_model_it_was_made_of(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    theirs = write_gguf(tmp_path / "snapshot", file)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: org/tiny\n---\n")
    snapshot = open_snapshot(str(file))
    ids = torch.randint(0, 280, (1, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            snapshot.model(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5
        )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert snapshot.provenance["sha256"] == {"tiny.gguf": digest}
    assert snapshot.provenance["repo"] == "tiny.gguf"
    assert snapshot.provenance["license"] == "apache-2.0"
    assert snapshot.provenance["base_model"] == ("org/tiny",)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "none.gguf"
    file.write_bytes(b"GGUF, but not really")
    with pytest.raises(SnapshotError, match=r"cannot read .*none\.gguf"):
        open_snapshot(file)
