"""AtomForCausalLM against independent renderings: transformers' Llama, and XSA in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from atom_edge.attention import exclude_own_value
from atom_edge.config import AtomConfig
from atom_edge.errors import GenerationError, UnsupportedModelError
from atom_edge.modeling import AtomForCausalLM

SHAPES = [
    {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 64, "hidden_size": 192},
    {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "hidden_size": 96},
    {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "hidden_size": 128},
]


def atom(seed: int = 0, **options: object) -> AtomForCausalLM:
    torch.manual_seed(seed)
    return AtomForCausalLM(AtomConfig(initializer_range=0.08, **options)).eval()


def test_default_configuration_is_atom_3_4m() -> None:
    model = atom()
    assert model.num_parameters() == 3_412_800
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_without_xsa_it_is_llama(shape: dict[str, int], tied: bool) -> None:
    options = {
        "vocab_size": 600,
        "intermediate_size": 200,
        "num_hidden_layers": 3,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        **shape,
    }
    torch.manual_seed(1)
    llama = LlamaForCausalLM(
        LlamaConfig(**options, rope_theta=5000.0, initializer_range=0.08)
    ).eval()
    model = atom(xsa=False, **options)
    model.load_state_dict(llama.state_dict())
    ids = torch.randint(0, 600, (2, 100))
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, llama(ids).logits, rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 9),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 4),
    width=st.integers(1, 16),
    seed=st.integers(0, 2**31),
)
def test_xsa_is_the_formula(
    batch: int, tokens: int, kv_heads: int, groups: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(batch, tokens, kv_heads * groups, width, generator=generator)
    v = torch.randn(batch, tokens, kv_heads, width, generator=generator)
    result = exclude_own_value(y, v).double()
    for b in range(batch):
        for t in range(tokens):
            for head in range(kv_heads * groups):
                own, out = v[b, t, head // groups].double(), y[b, t, head].double()
                expected = out - (out @ own) / (own @ own) * own
                torch.testing.assert_close(result[b, t, head], expected, rtol=0, atol=1e-5)


def test_xsa_of_a_zero_value_changes_nothing() -> None:
    y = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(exclude_own_value(y, torch.zeros(1, 2, 1, 4)), y)


def test_first_token_attends_to_nothing_but_itself() -> None:
    attention = atom().model.layers[0].self_attn
    rotary = (torch.ones(1, 1, 1, 32), torch.zeros(1, 1, 1, 32))
    output = attention(torch.randn(1, 1, 192), rotary, None, None)
    assert output.abs().max() < 1e-5


def test_attention_implementations_agree() -> None:
    model, ids = atom(), torch.randint(0, 4096, (2, 60))
    mask = torch.ones_like(ids)
    mask[0, :13] = 0
    logits = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        with torch.no_grad():
            logits[implementation] = model(ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(logits["eager"], logits["sdpa"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_generate_is_the_same_with_and_without_the_cache(implementation: str) -> None:
    model = atom()
    model.set_attn_implementation(implementation)
    prompt = torch.randint(5, 4096, (1, 12))
    mask = torch.ones_like(prompt)
    options = {"attention_mask": mask, "max_new_tokens": 40, "do_sample": False}
    cached = model.generate(prompt, use_cache=True, **options)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **options))


def test_padding_on_the_left_changes_nothing() -> None:
    model = atom()
    ids = torch.randint(5, 4096, (1, 10))
    padded = torch.cat([torch.zeros(1, 6, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(16) >= 6).long()[None]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        plain = model(ids).logits
        shifted = model(padded, attention_mask=mask, position_ids=positions).logits[:, 6:]
    torch.testing.assert_close(shifted, plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_again(tmp_path: Path, tied: bool) -> None:
    model = atom(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, AtomForCausalLM)
    ids = torch.randint(0, 4096, (1, 20))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_labels_give_the_shifted_cross_entropy() -> None:
    model, ids = atom(), torch.randint(0, 4096, (2, 16))
    with torch.no_grad():
        output = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].reshape(-1, 4096), ids[:, 1:].reshape(-1)
    )
    torch.testing.assert_close(output.loss, expected)


def test_logits_to_keep_are_the_last() -> None:
    model, ids = atom(), torch.randint(0, 4096, (1, 16))
    with torch.no_grad():
        last = model(ids, logits_to_keep=1).logits
        torch.testing.assert_close(last, model(ids).logits[:, -1:])


def test_more_than_the_context_is_refused() -> None:
    with pytest.raises(GenerationError, match="context of 512"):
        atom()(torch.zeros(1, 513, dtype=torch.long))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("use_bias", True),
        ("rotary_scaling", {"kind": "dynamic", "factor": 2.0}),
        ("rotary_scaling", {"kind": "llama3", "factor": 2.0}),
        ("rotary_dim", 40),
        ("sliding_window", 128),
        ("num_local_experts", 8),
        ("use_qk_norm", True),
        ("hidden_act", "gelu"),
        ("num_key_value_heads", 2),
        ("rotary_dim", 31),
    ],
)
def test_what_it_does_not_compute_is_refused_by_name(option: str, value: object) -> None:
    named = "llama3 rotary positions without|kind 'dynamic'"
    with pytest.raises(UnsupportedModelError, match=f"{option}|{named}"):
        AtomConfig(**{"head_dim": 32, option: value})


def test_neutral_options_are_accepted() -> None:
    AtomConfig(rope_parameters={"rope_type": "default"}, attention_bias=False, sliding_window=None)
