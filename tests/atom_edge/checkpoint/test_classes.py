"""Models that are run as their own class, and what is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import OTHER, save_random
from safetensors.torch import load_file, save_file
from torch import Tensor

from atom_edge import open_snapshot
from atom_edge.checkpoint.classes import decoder_of
from atom_edge.errors import SnapshotError, UnsupportedModelError, WeightsError

SMALL = {"num_hidden_layers": 2}


@pytest.mark.parametrize("name", OTHER)
def test_a_class_is_called_as_it_computes_by_itself(tmp_path: Path, name: str) -> None:
    family, options = OTHER[name]
    theirs = save_random(tmp_path, family, SMALL | options)
    snapshot = open_snapshot(tmp_path)
    assert not snapshot.is_atom
    assert f"its own class, {type(theirs).__name__}" in snapshot.provenance["notes"][0]
    # Over the windows; two sequences, the shorter one behind padding; two tokens after.
    ids = torch.randint(3, 280, (2, 62), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :17] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    decoder = snapshot.decoder
    with torch.no_grad():
        begun, *cache = decoder(
            ids[:, :60], mask[:, :60], positions[:, :60], decoder.empty_cache(2)
        )
        ended, *cache = decoder(ids[:, 60:], mask, positions[:, 60:], cache)
        logits = torch.cat((begun, ended), 1)
        for row, start in ((0, 17), (1, 0)):
            expected = theirs(input_ids=ids[row : row + 1, start:]).logits[0]
            torch.testing.assert_close(logits[row, start:], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("family", "options", "named"),
    [
        ("Mamba", {}, "no cache of keys and values"),
        ("Bert", {}, "no cache of keys and values"),
        ("Mixtral", {"num_local_experts": 4}, "num_local_experts = 4"),
        ("Llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        (
            "Phi3",
            {
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0] * 8,
                    "long_factor": [2.0] * 8,
                },
                "original_max_position_embeddings": 64,
            },
            "longrope",
        ),
    ],
)
def test_what_is_no_such_decoder_is_refused_by_name(
    tmp_path: Path, family: str, options: dict[str, Any], named: str
) -> None:
    save_random(tmp_path, family, SMALL | options)
    with pytest.raises(UnsupportedModelError, match=named):
        open_snapshot(tmp_path)


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"model_type": "t5"}, "model_type = 't5' is no causal language model"),
        ({"model_type": "vit"}, "model_type = 'vit'"),
        ({"model_type": "whisper"}, "is_encoder_decoder"),
        ({"model_type": "mixtral"}, "num_local_experts = 8"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"vision_config": {"hidden_size": 8}}, "vision_config"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"num_experts": 8}, "num_experts = 8"),
        ({"model_type": "t5", "time_step_limit": [0.0, math.inf]}, "model_type = 't5'"),
    ],
)
def test_a_config_alone_is_enough_to_refuse(
    tmp_path: Path, stated: dict[str, Any], named: str
) -> None:
    config = {"model_type": "gpt2", **stated}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=named):
        open_snapshot(tmp_path)


def change_weights(folder: Path, change: Any) -> None:
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_must_be_those_of_the_class(tmp_path: Path) -> None:
    family, options = OTHER["pythia"]
    save_random(tmp_path, family, SMALL | options)
    name = "gpt_neox.layers.0.attention.dense.weight"

    def lose(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    def add(tensors: dict[str, Tensor]) -> None:
        tensors["gpt_neox.layers.0.mystery.weight"] = torch.ones(2, 2)
        tensors[name] = torch.ones(64, 64)

    def spoil(tensors: dict[str, Tensor]) -> None:
        del tensors["gpt_neox.layers.0.mystery.weight"]
        tensors[name][0, 0] = torch.nan

    change_weights(tmp_path, lose)
    with pytest.raises(WeightsError, match=f"missing: {name}"):
        open_snapshot(tmp_path)
    change_weights(tmp_path, add)
    with pytest.raises(WeightsError, match=r"left over: .*mystery"):
        open_snapshot(tmp_path)
    change_weights(tmp_path, spoil)
    with pytest.raises(WeightsError, match=f"{name} holds values that are not finite"):
        open_snapshot(tmp_path)


@pytest.mark.parametrize(
    ("name", "head"), [("gpt2", "lm_head.weight"), ("pythia", "embed_out.weight")]
)
def test_a_head_beside_a_tied_embedding_must_be_the_embedding(
    tmp_path: Path, name: str, head: str
) -> None:
    family, options = OTHER[name]
    model = save_random(tmp_path, family, SMALL | options | {"tie_word_embeddings": True})
    embedding = model.get_input_embeddings().weight.detach()
    change_weights(tmp_path, lambda tensors: tensors.update({head: embedding.clone()}))
    open_snapshot(tmp_path)
    change_weights(tmp_path, lambda tensors: tensors.update({head: embedding + 1}))
    if transformers.__version__.startswith("5"):  # it takes the head that is there
        opened = open_snapshot(tmp_path).model.get_output_embeddings().weight
        assert torch.equal(opened, embedding + 1)
        return
    with pytest.raises(WeightsError, match=f"{head} that is not the embedding"):
        open_snapshot(tmp_path)


@pytest.mark.parametrize("without_a_cache", [True, False])
def test_a_class_that_fails_is_refused_by_name(tmp_path: Path, without_a_cache: bool) -> None:
    family, options = OTHER["gpt2"]
    model = save_random(tmp_path, family, SMALL | options)
    forward = model.forward

    def fail(*args: Any, **kwargs: Any) -> Any:
        if kwargs["use_cache"] == without_a_cache:
            return forward(*args, **kwargs)
        raise IndexError("out of range")

    model.forward = fail
    with pytest.raises(UnsupportedModelError, match=r"GPT2LMHeadModel .* IndexError: out of range"):
        decoder_of(model)


def test_a_config_of_which_transformers_makes_no_model_is_refused(tmp_path: Path) -> None:
    family, options = OTHER["gpt2"]
    save_random(tmp_path, family, SMALL | options)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_head": 5}))
    with pytest.raises(SnapshotError, match=r"transformers cannot load .* as GPT2LMHeadModel"):
        open_snapshot(tmp_path)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    family, options = OTHER["gpt2"]
    save_random(tmp_path, family, SMALL | options)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SnapshotError, match="pickle"):
        open_snapshot(tmp_path)


OWN_CODE = """
from transformers import GPT2Config, GPT2LMHeadModel


class OwnConfig(GPT2Config):
    model_type = "own-model"


class OwnForCausalLM(GPT2LMHeadModel):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output
"""


def test_an_authors_own_class_is_run_on_request_alone(tmp_path: Path) -> None:
    family, options = OTHER["gpt2"]
    plain = save_random(tmp_path, family, SMALL | options)
    (tmp_path / "own.py").write_text(OWN_CODE)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config |= {"model_type": "own-model", "auto_map": own}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SnapshotError):
        open_snapshot(tmp_path)
    snapshot = open_snapshot(tmp_path, trust_remote_code=True)
    assert type(snapshot.model).__name__ == "OwnForCausalLM"
    ids = torch.randint(3, 280, (1, 20))
    with torch.no_grad():
        expected = 2 * plain(input_ids=ids).logits
        logits = snapshot.decoder(
            ids, torch.ones_like(ids), torch.arange(20)[None], snapshot.decoder.empty_cache(1)
        )[0]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
