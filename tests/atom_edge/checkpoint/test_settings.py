"""Configurations: what they state, what shapes say, and what happens when they disagree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atom_edge import open_snapshot
from atom_edge.config import AtomConfig
from atom_edge.errors import SnapshotError, UnsupportedModelError, WeightsError
from atom_edge.modeling import AtomForCausalLM

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 64,
}
# All that the tensors of a folder do not tell.
UNMEASURED = {
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rope_theta": 7000.0,
    "rms_norm_eps": 1e-5,
    "xsa": True,
}

Open = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path, write_snapshot: Callable[..., Path]) -> Open:
    """A function that opens a random model of SHAPE under the given config.json."""

    def open_with(config: dict[str, Any], tied: bool = True, shape: Any = SHAPE) -> Any:
        torch.manual_seed(0)
        model = AtomForCausalLM(AtomConfig(**shape, tie_word_embeddings=tied))
        tensors = model.state_dict()
        if tied:
            del tensors["lm_head.weight"]
        return open_snapshot(write_snapshot(tmp_path / "model", tensors, config))

    return open_with


def test_shapes_say_what_the_config_leaves_out(opened: Open) -> None:
    config = opened(UNMEASURED).config
    assert {name: getattr(config, name) for name in SHAPE} == SHAPE
    assert {name: getattr(config, name) for name in UNMEASURED} == UNMEASURED
    assert config.tie_word_embeddings


@pytest.mark.parametrize("known", ["num_attention_heads", "num_key_value_heads", "head_dim"])
def test_one_of_three_is_enough_for_the_heads(opened: Open, known: str) -> None:
    stated = {name: value for name, value in UNMEASURED.items() if name != "num_attention_heads"}
    config = opened(stated | {known: SHAPE[known]}).config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 10)


@pytest.mark.parametrize("name", sorted(UNMEASURED))
def test_what_nothing_says_is_asked_for_by_name(opened: Open, name: str) -> None:
    stated = {other: value for other, value in UNMEASURED.items() if other != name}
    with pytest.raises(SnapshotError, match=name):
        opened(stated)


def test_without_a_config_all_that_is_missing_is_named(opened: Open) -> None:
    with pytest.raises(SnapshotError, match="num_attention_heads"):
        opened({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 301),
        ("hidden_size", 32),
        ("n_embd", 32),
        ("ffn_dim", 33),
        ("n_layer", 3),
        ("num_attention_heads", 3),
        ("n_kv_heads", 4),
        ("head_dim", 20),
        ("hidden_dim", 25),
    ],
)
def test_contradicting_the_shapes_names_both_values(opened: Open, name: str, value: int) -> None:
    with pytest.raises(WeightsError, match="contradict each other") as refusal:
        opened(UNMEASURED | {name: value})
    assert str(value) in str(refusal.value)
    assert "tensors" in str(refusal.value)


def test_contradicting_itself_names_both(opened: Open) -> None:
    with pytest.raises(SnapshotError, match="hidden_size = 24, n_embd = 32"):
        opened(UNMEASURED | {"hidden_size": 24, "n_embd": 32})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "24"),
        ("n_layer", 2.5),
        ("head_dim", True),
        ("n_head", 0),
        ("dim", [24]),
        ("rope_theta", "fast"),
        ("norm_eps", -1e-5),
        ("xsa", "yes"),
    ],
)
def test_a_value_of_another_kind_is_refused(opened: Open, name: str, value: object) -> None:
    stated = {other: kept for other, kept in UNMEASURED.items() if other != name}
    with pytest.raises(SnapshotError, match=name):
        opened(stated | {name: value})


def test_neutral_and_absent_values_are_read_as_such(opened: Open) -> None:
    absent = {"vocab_size": -1, "n_inner": None, "head_dim": None, "hidden_dim": 24}
    neutral = {"rope_scaling": None, "norm_type": "RMSNorm", "layer_types": ["full_attention"] * 2}
    assert opened(UNMEASURED | absent | neutral).config.head_dim == 10


def test_the_rotary_base_of_newer_files(opened: Open) -> None:
    stated = {name: value for name, value in UNMEASURED.items() if name != "rope_theta"}
    newer = {"rope_parameters": {"rope_type": "default", "rope_theta": 1234.0}}
    assert opened(stated | newer).config.rope_theta == 1234.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_parameters", {"rope_type": "dynamic", "factor": 2.0}),
        ("rope_parameters", {"factor": 2.0}),
        ("rope_scaling", {"type": "linear", "factor": 2.0, "mystery": 1}),
        ("rope_scaling", {"type": "linear", "factor": "2"}),
        ("rope_scaling", {"full_attention": {"rope_type": "default"}}),
        ("sliding_window", 63),
        ("no_rope_layers", [1, 0]),
        ("rotary_dim", 5),  # odd
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("norm_type", "LayerNorm"),
        ("position_embedding_type", "learned"),
        ("use_parallel_residual", True),
        ("hidden_act", "gelu"),
        ("activation_function", "gelu_new"),
        ("attention_type", "sliding_window"),
        ("xsa_layers", [0]),
        ("n_experts", 8),
        ("scale_embeddings", True),
        ("model_type", "internlm2"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(opened: Open, name: str, value: object) -> None:
    with pytest.raises(UnsupportedModelError, match=name):
        opened(UNMEASURED | {name: value})


@pytest.mark.parametrize("kind", ["gemma", "gpt2", "phi"])
def test_weights_of_another_size_than_the_class_are_refused(opened: Open, kind: str) -> None:
    with pytest.raises(WeightsError, match=r"ForCausalLM|LMHeadModel"):
        opened(UNMEASURED | {"model_type": kind})


@pytest.mark.parametrize(
    ("stated", "xsa"),
    [
        ({"xsa": True, "model_type": "llama"}, True),
        ({"model_type": "llama"}, False),
        ({"model_type": "mistral", "sliding_window": None}, False),
        ({"model_type": "atom"}, True),
        ({"model_type": "atom-lm", "auto_map": {}}, True),
        ({"attention_type": "gqa_xsa"}, True),
        ({"use_xse": False}, False),
    ],
)
def test_whether_attention_is_exclusive(opened: Open, stated: dict[str, Any], xsa: bool) -> None:
    unmeasured = {name: value for name, value in UNMEASURED.items() if name != "xsa"}
    snapshot = opened(unmeasured | stated)
    assert snapshot.config.xsa is xsa
    told = any(name.startswith(("xs", "use_xs", "attention_type")) for name in stated)
    assert any("xsa" in note for note in snapshot.provenance["notes"]) is not told


def test_atom_is_known_by_its_shape(opened: Open) -> None:
    snapshot = opened({"model_type": "something"}, shape={})
    assert snapshot.config.to_diff_dict() == AtomConfig().to_diff_dict() | {
        name: getattr(snapshot.config, name)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    assert snapshot.config.xsa
    assert "the default of atom" in " ".join(snapshot.provenance["notes"])


def test_the_cards_tag_says_exclusive(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = {name: value for name, value in UNMEASURED.items() if name != "xsa"}
    with pytest.raises(SnapshotError, match="xsa"):
        opened(stated)
    (tmp_path / "model" / "README.md").write_text("---\ntags:\n- xsa\n- gqa\n---\n# A model\n")
    assert open_snapshot(tmp_path / "model").config.xsa


def test_tied_or_not_must_agree_with_the_tensors(opened: Open) -> None:
    assert not opened(UNMEASURED, tied=False).config.tie_word_embeddings
    with pytest.raises(WeightsError, match="tie_word_embeddings = true"):
        opened(UNMEASURED | {"tie_word_embeddings": True}, tied=False)
    with pytest.raises(WeightsError, match=r"tie_word_embeddings = false.*lm_head"):
        opened(UNMEASURED | {"tie_word_embeddings": False})


def test_square_gpt_matrices_do_not_tell_their_layout(
    tmp_path: Path, write_snapshot: Callable[..., Path]
) -> None:
    square = SHAPE | {"intermediate_size": 24, "num_key_value_heads": 4, "head_dim": 6}
    source = AtomForCausalLM(AtomConfig(**square)).state_dict()
    names = {"q_proj": "c_q", "k_proj": "c_k", "v_proj": "c_v", "o_proj": "c_proj"}
    names |= {"gate_proj": "c_gate", "up_proj": "c_fc", "down_proj": "c_proj"}
    stored = {}
    for name, tensor in source.items():
        for ours, theirs in names.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        stored[name] = tensor
    folder = write_snapshot(tmp_path / "model", stored, UNMEASURED)
    with pytest.raises(WeightsError, match="square"):
        open_snapshot(folder)
