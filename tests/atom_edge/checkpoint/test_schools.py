"""One random model under the names of every school: it always loads to the same logits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from atom_edge import open_snapshot
from atom_edge.config import AtomConfig
from atom_edge.errors import SnapshotError, UnsupportedModelError
from atom_edge.modeling import AtomForCausalLM

IDS = torch.arange(40)[None] * 7 % 300
OPEN = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class School:
    """How a project stores the model: names, fused matrices, and the names in its config.json."""

    embedding: str
    norm: str
    head: str
    layer: str
    input_norm: str
    output_norm: str
    attention: tuple[str, ...]  # q, k, v, o; or qkv, o; or q, kv, o
    mlp: tuple[str, ...]  # gate, up, down; or gate_up, down
    transposed: bool = False
    interleaved: bool = False
    config: dict[str, str] = field(default_factory=dict)


HF_CONFIG = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "max_position_embeddings": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "tie_word_embeddings": "tie_word_embeddings",
    "xsa": "xsa",
}
META_CONFIG = {
    "hidden_size": "dim",
    "intermediate_size": "ffn_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "max_position_embeddings": "max_seq_len",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "tie_word_embeddings": "weight_tying",
    "xsa": "use_xsa",
}
GPT_CONFIG = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "max_position_embeddings": "block_size",
    "rms_norm_eps": "layer_norm_epsilon",
    "rope_theta": "rope_base",
    "tie_word_embeddings": "tie_embeddings",
    "xsa": "exclusive_self_attention",
}
LLAMA = School(
    *("model.embed_tokens", "model.norm", "lm_head", "model.layers.{}."),
    *("input_layernorm", "post_attention_layernorm"),
    tuple(f"self_attn.{name}_proj" for name in "qkvo"),
    ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    config=HF_CONFIG,
)
FUSED_LLAMA = School(
    *("model.embed_tokens", "model.norm", "lm_head", "model.layers.{}."),
    *("input_layernorm", "post_attention_layernorm"),
    ("self_attn.qkv_proj", "self_attn.o_proj"),
    ("mlp.gate_up_proj", "mlp.down_proj"),
    config=HF_CONFIG,
)
META = School(
    *("tok_embeddings", "norm", "output", "layers.{}.", "attention_norm", "ffn_norm"),
    tuple(f"attention.w{name}" for name in "qkvo"),
    ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
    interleaved=True,
    config=META_CONFIG,
)
GPT2 = School(
    *("transformer.wte", "transformer.ln_f", "lm_head", "transformer.h.{}.", "ln_1", "ln_2"),
    ("attn.c_attn", "attn.c_proj"),
    ("mlp.c_fc", "mlp.c_proj"),
    transposed=True,
    config=GPT_CONFIG,
)
NANO_GPT = School(
    *("transformer.wte", "transformer.ln_f", "lm_head", "transformer.h.{}.", "ln_1", "ln_2"),
    ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj"),
    ("mlp.c_gate", "mlp.c_fc", "mlp.c_proj"),
    config=GPT_CONFIG,
)
LIT_GPT = School(
    *("transformer.wte", "transformer.ln_f", "lm_head", "transformer.h.{}.", "norm_1", "norm_2"),
    ("attn.qkv", "attn.proj"),
    ("mlp.fc_1", "mlp.fc_2", "mlp.proj"),
    config=GPT_CONFIG,
)
MOSAIC = School(
    *("tok_emb", "final_norm", "head", "blocks.{}.", "norm1", "norm2"),
    ("attn.Wqkv", "attn.out_proj"),
    ("ffn.w1", "ffn.w2", "ffn.w3"),
    config=META_CONFIG,
)
KV_FUSED = School(
    *("embed", "norm_f", "lm_head", "layers.{}.", "attn_norm", "mlp_norm"),
    ("attn.q_proj", "attn.kv_proj", "attn.o_proj"),
    ("mlp.w12", "mlp.w3"),
    config=HF_CONFIG,
)
SCHOOLS = [LLAMA, FUSED_LLAMA, META, GPT2, NANO_GPT, LIT_GPT, MOSAIC, KV_FUSED]
PREFIXES = ["", "_orig_mod.", "module.", "model.", "module._orig_mod.", "transformer.", "backbone."]

shapes = st.fixed_dictionaries(
    {
        "hidden_size": st.sampled_from([24, 40]),
        "intermediate_size": st.sampled_from([32, 56]),
        "num_hidden_layers": st.integers(1, 2),
        "num_attention_heads": st.sampled_from([2, 4]),
        "num_key_value_heads": st.sampled_from([1, 2]),
        "head_dim": st.sampled_from([4, 10]),
        "tie_word_embeddings": st.booleans(),
        "xsa": st.booleans(),
    }
)


def random_model(shape: dict[str, Any]) -> AtomForCausalLM:
    torch.manual_seed(0)
    options = {"vocab_size": 300, "max_position_embeddings": 64, "initializer_range": 0.2}
    model = AtomForCausalLM(AtomConfig(**options, rms_norm_eps=1e-5, **shape)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def logits(model: AtomForCausalLM) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def interleave(matrix: Tensor, width: int) -> Tensor:
    """Rows of half-split heads in the order of interleaved ones."""
    order = torch.arange(width).view(2, -1).t().flatten()
    return torch.cat([head[order] for head in matrix.split(width)])


def rename(model: AtomForCausalLM, school: School) -> dict[str, Tensor]:
    """The model's tensors as `school` stores them."""
    config = model.config
    stored = {
        school.embedding: model.model.embed_tokens.weight,
        school.norm: model.model.norm.weight,
    }
    if not config.tie_word_embeddings:
        stored[school.head] = model.lm_head.weight
    for number, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        q, k, v = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
        if school.interleaved:
            q, k = interleave(q, config.head_dim), interleave(k, config.head_dim)
        inputs = {4: [q, k, v], 3: [q, torch.cat([k, v])], 2: [torch.cat([q, k, v])]}
        gates = [mlp.gate_proj.weight, mlp.up_proj.weight]
        gates = gates if len(school.mlp) == 3 else [torch.cat(gates)]
        matrices = dict(
            zip(
                (*school.attention, *school.mlp),
                (
                    *inputs[len(school.attention)],
                    attention.o_proj.weight,
                    *gates,
                    mlp.down_proj.weight,
                ),
                strict=True,
            )
        )
        prefix = school.layer.format(number)
        for name, matrix in matrices.items():
            stored[prefix + name] = matrix.t() if school.transposed else matrix
        stored[prefix + school.input_norm] = layer.input_layernorm.weight
        stored[prefix + school.output_norm] = layer.post_attention_layernorm.weight
    return {f"{name}.weight": tensor.detach() for name, tensor in stored.items()}


def settings_of(model: AtomForCausalLM, school: School) -> dict[str, Any]:
    own = model.config.to_dict()
    return {theirs: own[ours] for ours, theirs in school.config.items()}


def buffers(school: School) -> dict[str, Tensor]:
    """What old checkpoints store besides parameters."""
    attention = school.layer.format(0) + school.attention[0].split(".")[0]
    return {
        f"{attention}.bias": torch.ones(1, 1, 8, 8).tril(),
        f"{attention}.masked_bias": torch.tensor(-1e4),
        f"{attention}.rotary_emb.inv_freq": torch.rand(4),
        "cos_cached": torch.rand(8, 4),
        "freqs_sin": torch.rand(8, 4),
    }


@OPEN
@given(
    school=st.sampled_from(SCHOOLS),
    shape=shapes,
    prefix=st.sampled_from(PREFIXES),
    shards=st.integers(1, 3),
    with_buffers=st.booleans(),
    tied_head_stored=st.booleans(),
    transposed=st.booleans(),
)
def test_every_school_loads_to_the_same_logits(
    write_snapshot: Callable[..., Path],
    school: School,
    shape: dict[str, Any],
    prefix: str,
    shards: int,
    with_buffers: bool,
    tied_head_stored: bool,
    transposed: bool,
) -> None:
    model = random_model(shape)
    stored = rename(model, school)
    if with_buffers:
        stored |= buffers(school)
    if tied_head_stored and shape["tie_word_embeddings"]:
        stored[f"{school.head}.weight"] = model.lm_head.weight.detach()
    stored = {prefix + name: tensor for name, tensor in stored.items()}
    with tempfile.TemporaryDirectory() as folder:
        write_snapshot(Path(folder), stored, settings_of(model, school), shards=shards)
        snapshot = open_snapshot(folder)
    assert snapshot.config.tie_word_embeddings is shape["tie_word_embeddings"]
    torch.testing.assert_close(logits(snapshot.model), logits(model), rtol=0, atol=1e-5)


@OPEN
@given(school=st.sampled_from(SCHOOLS), shape=shapes, data=st.data())
def test_any_tensor_dropped_is_refused(
    write_snapshot: Callable[..., Path], school: School, shape: dict[str, Any], data: st.DataObject
) -> None:
    model = random_model(shape)
    stored = rename(model, school)
    canonical = [name for known in (LLAMA, FUSED_LLAMA, KV_FUSED) for name in rename(model, known)]
    dropped = data.draw(st.sampled_from(sorted(stored)))
    del stored[dropped]
    with tempfile.TemporaryDirectory() as folder:
        write_snapshot(Path(folder), stored, settings_of(model, school))
        with pytest.raises(SnapshotError) as refusal:
            open_snapshot(folder)
    message = str(refusal.value)
    assert [name for name in [*stored, *canonical] if name in message]
    if school is LLAMA:
        assert dropped in message


@OPEN
@given(school=st.sampled_from(SCHOOLS), shape=shapes, data=st.data())
def test_any_tensor_reshaped_is_refused_by_name(
    write_snapshot: Callable[..., Path], school: School, shape: dict[str, Any], data: st.DataObject
) -> None:
    model = random_model(shape)
    stored = rename(model, school)
    name = data.draw(st.sampled_from(sorted(stored)))
    tensor = stored[name]
    axis = data.draw(st.integers(0, tensor.dim() - 1))
    change = data.draw(st.sampled_from(["shorter", "longer", "flat"]))
    if change == "flat":
        stored[name] = tensor.unsqueeze(0) if tensor.dim() == 1 else tensor.flatten()
    elif change == "shorter":
        stored[name] = tensor.narrow(axis, 0, tensor.shape[axis] - 1)
    else:
        stored[name] = torch.cat([tensor, tensor.narrow(axis, 0, 1)], dim=axis)
    config = settings_of(model, school) | {"vocab_size": 300}
    with tempfile.TemporaryDirectory() as folder:
        write_snapshot(Path(folder), stored, config)
        with pytest.raises(SnapshotError) as refusal:
            open_snapshot(folder)
    assert name in str(refusal.value)


@OPEN
@given(
    school=st.sampled_from(SCHOOLS),
    extra=st.sampled_from(["mystery", "attn.xsa_gate", "mlp.w4", "layers.0.mystery", "rope"]),
)
def test_a_tensor_too_many_is_refused_by_name_and_shape(
    write_snapshot: Callable[..., Path], school: School, extra: str
) -> None:
    model = random_model({"num_hidden_layers": 1, "head_dim": 10, "hidden_size": 24})
    stored = rename(model, school) | {school.layer.format(0) + extra + ".weight": torch.ones(3, 5)}
    with tempfile.TemporaryDirectory() as folder:
        write_snapshot(Path(folder), stored, settings_of(model, school))
        with pytest.raises(SnapshotError) as refusal:
            open_snapshot(folder)
    assert f"{school.layer.format(0)}{extra}.weight [3, 5]" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "shape", "feature"),
    [
        ("model.norm.bias", (24,), "norms with a bias"),
        ("model.layers.0.input_layernorm.bias", (24,), "norms with a bias"),
        ("lm_head.bias", (24,), "a bias of the logits"),
        ("model.layers.0.self_attn.q_layernorm.weight", (10,), "query/key norms"),
        ("transformer.wpe.weight", (64, 24), "learned positions"),
        ("model.layers.0.mlp.experts.0.up_proj.weight", (32, 24), "experts"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (4, 24), "adapters"),
        ("model.layers.0.self_attn.q_proj.qweight", (4, 24), "quantized"),
    ],
)
def test_parameters_of_another_feature_are_refused_by_its_name(
    tmp_path: Path,
    write_snapshot: Callable[..., Path],
    name: str,
    shape: tuple[int, ...],
    feature: str,
) -> None:
    model = random_model({"num_hidden_layers": 1, "head_dim": 10, "hidden_size": 24})
    write_snapshot(
        tmp_path, rename(model, LLAMA) | {name: torch.ones(shape)}, settings_of(model, LLAMA)
    )
    with pytest.raises(UnsupportedModelError, match=feature) as refusal:
        open_snapshot(tmp_path)
    assert f"{name} {list(shape)}" in str(refusal.value)
