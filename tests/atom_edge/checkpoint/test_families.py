"""Models of transformers' own classes that AtomForCausalLM computes with its options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import COMPUTED, save_random

from atom_edge import open_snapshot
from atom_edge.errors import SnapshotError, WeightsError


def change_config(folder: Path, **options: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


@pytest.mark.parametrize("name", COMPUTED)
def test_logits_are_those_of_transformers_own_class(tmp_path: Path, name: str) -> None:
    theirs = save_random(tmp_path, *COMPUTED[name])
    ours = open_snapshot(tmp_path).model
    ids = torch.randint(0, 280, (2, 128), generator=torch.Generator().manual_seed(0))
    for implementation in ("eager", "sdpa"):
        ours.set_attn_implementation(implementation)
        with torch.no_grad():
            torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)


@pytest.fixture
def qwen3(tmp_path: Path) -> Path:
    save_random(tmp_path, *COMPUTED["qwen3"])
    return tmp_path


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"use_qk_norm": False}, "use_qk_norm"),
        ({"mlp_bias": True}, "mlp_bias"),
    ],
)
def test_what_tensors_do_not_show_contradicts(
    qwen3: Path, stated: dict[str, Any], named: str
) -> None:
    change_config(qwen3, **stated)
    with pytest.raises(WeightsError, match=f"contradict.*\n.*{named}"):
        open_snapshot(qwen3)


@pytest.mark.parametrize(
    "stated",
    [
        {"rope_theta": 10000.0},
        {"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e4}},
        {"rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {
            "rope_parameters": {"rope_type": "linear", "factor": 2.0},
            "rope_scaling": {"type": "linear", "factor": 4.0},
        },
        {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}},
        {"partial_rotary_factor": 0.5, "rotary_dim": 8},
    ],
)
def test_statements_of_positions_that_differ_are_an_error(
    qwen3: Path, stated: dict[str, Any]
) -> None:
    change_config(qwen3, rope_theta=1e6, rope_parameters=None)
    open_snapshot(qwen3)
    change_config(qwen3, **({"rope_parameters": {"rope_theta": 1e6}} | stated))
    with pytest.raises(SnapshotError, match="contradicts itself"):
        open_snapshot(qwen3)


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters", "rotary_scaling"])
@pytest.mark.parametrize("stated", [3, "linear", ["linear"]])
def test_positions_of_another_form_are_an_error(qwen3: Path, name: str, stated: Any) -> None:
    change_config(qwen3, **{"rope_parameters": None, name: stated})
    with pytest.raises(SnapshotError, match=f"{name} = .*an object is expected"):
        open_snapshot(qwen3)


@pytest.mark.parametrize(
    "stated",
    [
        {"rope_type": ["linear"]},
        {"full_attention": {"rope_type": "linear", "factor": 2.0}},
        {"rope_type": "nonesuch", "factor": 2.0},
    ],
)
def test_no_class_runs_with_positions_that_it_does_not_read(
    qwen3: Path, stated: dict[str, Any]
) -> None:
    """transformers 4 leaves `rope_parameters` aside and would take plain positions."""
    change_config(qwen3, rope_theta=None, rope_parameters=stated)
    with pytest.raises(SnapshotError, match="rope_parameters"):
        open_snapshot(qwen3)


def test_the_rotary_base_inside_counts_where_none_is_outside(qwen3: Path) -> None:
    change_config(qwen3, rope_theta=None, rope_parameters={"rope_theta": 5e5})
    assert open_snapshot(qwen3).config.rope_theta == 5e5
    change_config(qwen3, rope_parameters=None, rope_scaling={"type": "default", "rope_theta": 7e5})
    assert open_snapshot(qwen3).config.rope_theta == 7e5


@pytest.mark.parametrize(
    ("stated", "fits"),
    [
        ({"sliding_window": None, "use_sliding_window": True}, True),
        ({"sliding_window": 16, "use_sliding_window": False}, True),
        ({"sliding_window": 128, "use_sliding_window": True}, True),
        ({"sliding_window": 127, "use_sliding_window": True}, False),
    ],
)
def test_our_model_computes_windows_that_hold_the_context(
    qwen3: Path, stated: dict[str, Any], fits: bool
) -> None:
    change_config(qwen3, layer_types=None, **stated)
    snapshot = open_snapshot(qwen3)
    assert snapshot.is_atom is fits
    assert fits or "sliding_window = 127" in snapshot.provenance["notes"][0]
