"""Matrices as the model wants them: `[out, in]`, one a projection, rotary halves side by side.

Shapes: E hidden size, H query heads, K key-value heads, D head size, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atom_edge.checkpoint.naming import NamedTensors
from atom_edge.config import AtomConfig
from atom_edge.errors import WeightsError


def untranspose(named: NamedTensors) -> dict[str, Tensor]:
    """Every matrix as `[out, in]`: GPT-2's Conv1D stores `[in, out]` under its `c_` names.

    All `c_` matrices of a file are stored alike, which the shape of those that read from the
    residual stream tells: `[E, other]` is transposed, `[other, E]` is not.

    Raises:
        WeightsError: the shapes are square, so that they do not tell, or they disagree.
    """
    tensors = named.tensors
    hidden = tensors["model.embed_tokens.weight"].shape[-1]
    candidates = {
        name for name, found in named.origin.items() if found.split(".")[-2].startswith("c_")
    }
    readers = [
        name
        for name in candidates
        if name.endswith(".weight") and not name.endswith(("o_proj.weight", "down_proj.weight"))
    ]
    telling = {name: tuple(tensors[name].shape) for name in readers}
    telling = {name: shape for name, shape in telling.items() if shape[0] != shape[1]}
    transposed = {name for name, shape in telling.items() if shape[0] == hidden}
    if readers and not telling:
        raise WeightsError(
            "The matrices with GPT-2's names are square, so that their shapes do not tell "
            f"whether they are transposed as GPT-2's are: {_listed(named, readers)}. "
            "Save them under the names of transformers' Llama."
        )
    if transposed and len(transposed) != len(telling):
        raise WeightsError(
            "Some matrices with GPT-2's names are transposed and some are not: "
            + _listed(named, telling)
        )
    return {
        name: tensor.t() if transposed and name in candidates and tensor.dim() == 2 else tensor
        for name, tensor in tensors.items()
    }


def _listed(named: NamedTensors, names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(
        f"{named.origin[name]} {list(named.tensors[name].shape)}" for name in sorted(names)
    )


def separate(
    tensors: Mapping[str, Tensor], named: NamedTensors, config: AtomConfig
) -> dict[str, Tensor]:
    """Take fused matrices apart along their rows.

    `qkv_proj` is all of q, then all of k, then all of v: `[(H + 2 K) D, E]`; `kv_proj` is k, then
    v; `gate_up_proj` is gate, then up: `[2 F, E]`. Biases likewise.

    Raises:
        WeightsError: a fused matrix is of another shape.
    """
    query = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    feed_forward = config.intermediate_size
    parts = {
        "qkv_proj": (("q_proj", query), ("k_proj", kv), ("v_proj", kv)),
        "kv_proj": (("k_proj", kv), ("v_proj", kv)),
        "gate_up_proj": (("gate_proj", feed_forward), ("up_proj", feed_forward)),
    }
    separated: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, tensor in tensors.items():
        linear, _, kind = name.rpartition(".")
        prefix, _, role = linear.rpartition(".")
        if role not in parts:
            separated[name] = tensor
            continue
        rows = [count for _, count in parts[role]]
        expected = [sum(rows), config.hidden_size][: tensor.dim()]
        if list(tensor.shape) != expected:
            wrong.append(f"{named.origin[name]} {list(tensor.shape)}, expected {expected}")
            continue
        for (part, _), piece in zip(parts[role], tensor.split(rows), strict=True):
            separated[f"{prefix}.{part}.{kind}"] = piece
    if wrong:
        raise WeightsError("Fused matrices of another shape:\n  " + "\n  ".join(wrong))
    return separated


def halve_rotary(tensors: Mapping[str, Tensor], config: AtomConfig) -> dict[str, Tensor]:
    """Reorder q and k of interleaved rotary embedding, so that half-split rotation is the same.

    Interleaved rotation turns rows 2i and 2i+1 of a head together, half-split rotation rows i and
    i + R/2 of the R that are rotated. Scores are sums over a head, so moving the rows of q and k
    alike changes nothing.
    """

    def halved(tensor: Tensor) -> Tensor:
        heads = tensor.reshape(-1, config.head_dim, *tensor.shape[1:])
        turned, rest = heads[:, : config.rotary_dim], heads[:, config.rotary_dim :]
        pairs = turned.reshape(len(heads), -1, 2, *tensor.shape[1:])
        turned = pairs.transpose(1, 2).reshape(turned.shape)
        return torch.cat((turned, rest), dim=1).reshape(tensor.shape)

    roles = ("q_proj", "k_proj", "q_norm", "k_norm")
    return {
        name: halved(tensor) if name.split(".")[-2] in roles else tensor
        for name, tensor in tensors.items()
    }


def exchange_gate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors named as gate and up each other's names."""
    other = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    roles = {name: name.split(".")[-2] for name in tensors}
    return {
        name.replace(roles[name], other.get(roles[name], roles[name])): tensor
        for name, tensor in tensors.items()
    }
