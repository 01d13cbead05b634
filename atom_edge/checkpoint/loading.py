"""From named tensors and a configuration to the model, with nothing left to initialisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atom_edge.checkpoint.layout import exchange_gate, halve_rotary, separate
from atom_edge.checkpoint.naming import NamedTensors
from atom_edge.checkpoint.shapes import Reading
from atom_edge.errors import WeightsError
from atom_edge.modeling import AtomForCausalLM
from atom_edge.transformers_versions import no_init_weights

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load(reading: Reading, named: NamedTensors, tensors: Mapping[str, Tensor]) -> AtomForCausalLM:
    """A float32 model in evaluation mode, every parameter of which comes from `tensors`.

    Args:
        reading: the configuration, and how the tensors are to be read.
        named: the tensors' names in the file, for errors.
        tensors: by this package's names, `[out, in]`, fused ones still fused.

    Raises:
        WeightsError: a tensor is of another shape, or of a dtype that holds no weights.
    """
    try:
        weights = separate(tensors, named, reading.config)
    except WeightsError as error:
        raise WeightsError(f"{error}\n{_whence(reading)}") from error
    if reading.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    with no_init_weights():
        model = AtomForCausalLM(reading.config)
    model.tie_weights()  # one parameter, so that a trace stores it once
    _check_shapes(weights, named, model, reading)
    if reading.interleaved:
        weights = halve_rotary(weights, reading.config)
    if reading.gate_last:
        weights = exchange_gate(weights)
    model.load_state_dict(weights, strict=True)
    model.eval()
    return model


def _check_shapes(
    weights: Mapping[str, Tensor], named: NamedTensors, model: AtomForCausalLM, reading: Reading
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = [
        f"{named.origin.get(name, name)} {list(found.get(name, ()))}, expected "
        f"{list(expected.get(name, ()))}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    wrong += [
        f"{named.origin.get(name, name)} is {tensor.dtype}, expected floating point weights"
        for name, tensor in weights.items()
        if tensor.dtype not in _FLOATS
    ]
    if wrong:
        raise WeightsError(
            "The tensors do not fit together:\n  " + "\n  ".join(wrong) + f"\n{_whence(reading)}"
        )


def _whence(reading: Reading) -> str:
    """Of two tensors that contradict each other, either may be the wrong one: name both."""
    return f"The expected sizes come from config.json and {'; '.join(reading.measured)}."
